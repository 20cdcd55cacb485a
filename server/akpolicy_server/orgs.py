"""Orgs: created with their keys and their first root.

Rules:

- An org begins with two new keys of its own, one for roots and one for its bundles, and a root of version 1 that the
  root key signs: 1-of-1 everywhere. The root delegates `org/<org>` to the bundle key and `global` to the platform's.
- The root key's public half is the trust anchor that the org's hosts are configured with.
- The new root is judged here by the judge that the hosts use, together with the `global` bundle that they would get
  first: an org whose hosts could not start is not created.
- Key files are written before the database names them (`vault`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import IntegrityError

from akpolicy.envelope import PayloadType
from akpolicy.errors import InvalidField, OrgExists, StartupError
from akpolicy.keys import ANCHOR_PREFIX
from akpolicy.root import Delegation, Role, Roles, Root, RootKey
from akpolicy.scope import GLOBAL, is_org_name, org_scope
from akpolicy.signing import sign_document
from akpolicy_server.access import Caller, require_platform_admin
from akpolicy_server.api_keys import require_in_force
from akpolicy_server.judging import judge_manifest_as_host, judge_of
from akpolicy_server.store.orgs import (
    OrgRecord,
    RootRecord,
    insert_org,
    insert_root,
    org_exists,
    platform_key_id,
)
from akpolicy_server.store.revisions import current_revision
from akpolicy_server.times import MICROSECONDS, now_us

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy.keys import PublicKey
    from akpolicy_server.store.engine import Database
    from akpolicy_server.vault import Vault

DAY_S: Final = 86_400
ROOT_LIFETIME_S: Final = 365 * DAY_S
KEY_LIFETIME_S: Final = 730 * DAY_S
FIRST_ROOT_VERSION: Final = 1
FIRST_EPOCH: Final = 1
MIN_SIDECAR: Final = "0.1.0"


@dataclass(frozen=True, slots=True)
class CreatedOrg:
    """A new org; `trust_anchor` is what its sidecars are configured with."""

    org: str
    trust_anchor: str
    root_version: int


class Orgs:
    """Creates orgs. Thread-safe; blocks."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def create(self, caller: Caller, org: str) -> CreatedOrg:
        """Create an org.

        Raises `PermissionDenied` unless the caller is a platform admin, `Unauthenticated` if its key was revoked
        meanwhile, `InvalidField`, `OrgExists`, `KeyFileError`, or a `TrustError` of the first judgement.
        """
        require_platform_admin(caller)
        if not is_org_name(org):
            raise InvalidField(
                f"`{org[:64]}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends"
            )
        with self._database.read() as connection:
            if org_exists(connection, org):
                raise OrgExists(f"the org `{org}` exists already")
            platform_key = self._vault.load(require_platform_key(platform_key_id(connection))).public_key
        created_at_us = now_us(self._clock)
        now = created_at_us // MICROSECONDS
        root_signer, bundle_signer = self._vault.create(), self._vault.create()
        document = _first_root(org, now, root_signer.public_key, bundle_signer.public_key, platform_key)
        envelope = sign_document(PayloadType.ROOT, document.to_bytes(), [root_signer])
        record = OrgRecord(org, root_signer.public_key, bundle_signer.public_key.key_id, created_at_us)
        try:
            with self._database.write() as connection:
                require_in_force(connection, caller)
                insert_org(connection, record)
                insert_root(connection, RootRecord(org, document.version, envelope, document.expires_at))
                judge = judge_of(connection, record, now)
                if (current := current_revision(connection, GLOBAL)) is not None:
                    judge_manifest_as_host(judge, org, current.envelope, now)
        except IntegrityError:
            raise OrgExists(f"the org `{org}` exists already") from None
        return CreatedOrg(org, root_signer.public_key.anchor, document.version)


def require_platform_key(key_id: str | None) -> str:
    """Return the id of the platform's bundle key; raise `StartupError` if the database was never set up."""
    if key_id is None:
        raise StartupError("the database is empty; set up a server with `akpolicy-server init --dir DIR`")
    return key_id


def _first_root(org: str, now: int, root_key: PublicKey, bundle_key: PublicKey, platform_key: PublicKey) -> Root:
    def window(key: PublicKey) -> RootKey:
        encoded = key.anchor.removeprefix(ANCHOR_PREFIX)
        return RootKey(public_key=encoded, valid_from=now, valid_until=now + KEY_LIFETIME_S)

    def delegation(prefix: str, key: PublicKey) -> Delegation:
        return Delegation(prefix=prefix, keys=[key.key_id], threshold=1, grants=True)

    return Root(
        type="root",
        spec=1,
        org=org,
        version=FIRST_ROOT_VERSION,
        epoch=FIRST_EPOCH,
        issued_at=now,
        expires_at=now + ROOT_LIFETIME_S,
        min_sidecar=MIN_SIDECAR,
        keys={key.key_id: window(key) for key in (root_key, bundle_key, platform_key)},
        revoked={},
        roles=Roles(
            root=Role(keys=[root_key.key_id], threshold=1),
            bundle=[delegation(org_scope(org), bundle_key), delegation(GLOBAL, platform_key)],
            rollback=[],
        ),
    )
