"""Online keys: private keys that this server makes and keeps, for roles that it signs for.

Rules:

- A key file is written before the database names it (`vault`). A key signs nothing before a root names it.
- The platform has keys for bundles and rollbacks of `global`; orgs have their own, for heartbeats too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.errors import InvalidField, SignersMissing
from akpolicy_server.access import Caller, require_admin_of
from akpolicy_server.api_keys import require_in_force
from akpolicy_server.audience import require_org
from akpolicy_server.store.online_keys import KeyRole, OnlineKey, count_keys, insert_online_key, newest_key
from akpolicy_server.times import now_us

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy.keys import PublicKey
    from akpolicy_server.signatory import Signatory
    from akpolicy_server.store.engine import Database
    from akpolicy_server.vault import Vault

# Each is a file; a root has room for so many.
MAX_KEYS_PER_OWNER: Final = 256
PLATFORM_ROLES: Final = frozenset({KeyRole.BUNDLE, KeyRole.ROLLBACK})


class OnlineKeys:
    """Makes online keys. Thread-safe; blocks."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def create(self, caller: Caller, org: str | None, role: KeyRole) -> PublicKey:
        """Make a key for a role of an org (None: the platform) and return its public half.

        Raises `PermissionDenied`, `Unauthenticated`, `InvalidField`, `OrgNotFound` or `KeyFileError`.
        """
        require_admin_of(caller, org)
        if org is None and role not in PLATFORM_ROLES:
            raise InvalidField("the platform signs bundles and rollbacks of `global` alone; name an org")
        with self._database.read() as connection:
            if org is not None:
                require_org(connection, org)
            if count_keys(connection, org) >= MAX_KEYS_PER_OWNER:
                owner = f"the org `{org}`" if org else "the platform"
                raise InvalidField(f"{owner} has {MAX_KEYS_PER_OWNER} keys already, as many as a root can name")
        key = self._vault.create().public_key
        with self._database.write() as connection:
            require_in_force(connection, caller)
            insert_online_key(connection, OnlineKey(key.key_id, org, role, now_us(self._clock)))
        return key


def ensure_platform_keys(database: Database, vault: Vault, clock: Clock) -> None:
    """Make the keys of the platform that are not there yet: all of a new one, some of one by an older version."""
    for role in sorted(PLATFORM_ROLES):
        with database.read() as connection:
            is_there = newest_key(connection, None, role) is not None
        if not is_there:
            key = vault.create().public_key
            with database.write() as connection:
                insert_online_key(connection, OnlineKey(key.key_id, None, role, now_us(clock)))


def platform_key(connection: Connection, signatory: Signatory, role: KeyRole) -> PublicKey:
    """Return the platform's newest key for a role of `global`; raise `SignersMissing` if this server lacks it."""
    key_id = newest_key(connection, None, role)
    signer = None if key_id is None else signatory.find(key_id)
    if signer is None:
        raise SignersMissing(
            f"this server holds no {role} key of the platform; make one with CreateOnlineKey, or restore its file"
        )
    return signer.public_key
