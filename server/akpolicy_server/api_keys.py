"""API keys: made, checked, revoked.

Rules:

- A key is `akp_<key id: 16 hex digits>_<256 random bits, base64url>`. It is shown once; the server keeps its SHA-256.
  With 256 random bits a plain hash is enough: there is nothing to guess.
- The comparison takes the same time whether the key id is known or not.
- What writes looks again, inside its transaction, whether the caller's key is still in force.
- A host's key speaks for exactly one host of one org. A revoked key never comes back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.errors import HostDenied, InvalidField, KeyNotFound, LastAdminKey, OrgNotFound, Unauthenticated
from akpolicy.scope import HOST_ID_PATTERN, is_org_name
from akpolicy_server.access import Caller, Role, require_admin_of
from akpolicy_server.denied_hosts import require_not_denied
from akpolicy_server.store.api_keys import ApiKeyRecord, find_key, has_other_platform_admin, insert_key, revoke_key
from akpolicy_server.store.hosts import HostKey
from akpolicy_server.store.notices import tell_revoked
from akpolicy_server.store.orgs import org_exists
from akpolicy_server.times import now_us

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy_server.store.engine import Database

KEY_PREFIX: Final = "akp"
KEY_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
MAX_DESCRIPTION_CHARS: Final = 200

_KEY: Final = re.compile(rf"{KEY_PREFIX}_([0-9a-f]{{{2 * KEY_ID_BYTES}}})_[A-Za-z0-9_-]{{43}}")
_HOST_ID: Final = re.compile(HOST_ID_PATTERN)
_REFUSED: Final = "the API key is unknown or revoked"
# Compared against when there is no such key.
_NO_HASH: Final = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key just made: the only time that its secret is known."""

    key_id: str
    secret: str = field(repr=False)


class ApiKeys:
    """The API keys of the platform and of every org. Thread-safe; blocks."""

    def __init__(self, database: Database, clock: Clock, *, on_revoked: Callable[[str], None]) -> None:
        """`on_revoked` is told the id of each key that was revoked, after the fact, on the calling thread."""
        self._database = database
        self._clock = clock
        self._on_revoked = on_revoked

    def authenticate(self, secret: str) -> Caller:
        """Return who sent this key; raise `Unauthenticated`, or `HostDenied` for the key of a refused host."""
        key_id = key_id_in(secret)
        with self._database.read() as connection:
            record = find_key(connection, key_id)
            denied = _denial_of(connection, record)
        expected = record.secret_hash if record else _NO_HASH
        # Hash and comparison happen for an unknown id too.
        matches = hmac.compare_digest(_hash(secret), expected)
        if record is None or not matches or record.revoked_at_us is not None:
            raise Unauthenticated(_REFUSED)
        if denied is not None:
            raise denied
        return Caller(record.key_id, Role(record.role), record.org, record.host_id)

    def create(self, caller: Caller, *, org: str | None, role: Role, host_id: str, description: str) -> NewApiKey:
        """Make a key of `org` (None: the platform).

        Raises `PermissionDenied`, `InvalidField`, `OrgNotFound`, and `Unauthenticated` if the caller's key was revoked
        meanwhile.
        """
        require_admin_of(caller, org)
        _check_fields(org, role, host_id, description)
        with self._database.write() as connection:
            require_in_force(connection, caller)
            if org is not None and not org_exists(connection, org):
                raise OrgNotFound(f"there is no org `{org}`")
            return make_key(
                connection,
                now=now_us(self._clock),
                org=org,
                role=role,
                host_id=host_id,
                description=description,
                created_by=caller.key_id,
            )

    def revoke(self, caller: Caller, key_id: str) -> int:
        """Revoke a key for good; return when (epoch microseconds; the first time, if it was revoked before).

        Raises `KeyNotFound` for a key out of the caller's reach too, `PermissionDenied` for callers who administer
        nothing, `LastAdminKey` where nobody could administer the platform any more, and `Unauthenticated` if the
        caller's own key was revoked meanwhile.
        """
        require_admin_of(caller, caller.org)
        with self._database.write() as connection:
            require_in_force(connection, caller)
            record = find_key(connection, key_id)
            if record is None or not (caller.is_platform_admin or record.org == caller.org):
                raise KeyNotFound(f"there is no API key `{key_id[: 2 * KEY_ID_BYTES]}`")
            if _is_platform_admin(record) and not has_other_platform_admin(connection, key_id):
                raise LastAdminKey(f"`{key_id}` is the last admin key of the platform; make another one first")
            now = now_us(self._clock)
            revoke_key(connection, key_id, now)
            tell_revoked(connection, key_id)
        # After the commit: who looks again now sees it revoked.
        self._on_revoked(key_id)
        return now if record.revoked_at_us is None else record.revoked_at_us


def _denial_of(connection: Connection, record: ApiKeyRecord | None) -> HostDenied | None:
    """Return why the host of a key is refused; None if it is not, or if it is no host's key."""
    if record is None or record.org is None or record.host_id is None:
        return None
    try:
        require_not_denied(connection, HostKey(record.org, record.host_id))
    except HostDenied as denied:
        return denied
    return None


def key_id_in(secret: str) -> str:
    """Return the id in an API key, known or not; raise `Unauthenticated` for what has not the form of a key."""
    match = _KEY.fullmatch(secret)
    if match is None:
        raise Unauthenticated("this is no API key; it looks like `akp_<id>_<secret>`")
    return match[1]


def require_in_force(connection: Connection, caller: Caller) -> None:
    """Raise `Unauthenticated` unless the caller's key is in force still: the call may have taken its time."""
    record = find_key(connection, caller.key_id)
    if record is None or record.revoked_at_us is not None:
        raise Unauthenticated(_REFUSED)


def _is_platform_admin(record: ApiKeyRecord) -> bool:
    return record.org is None and record.role == Role.ADMIN.value and record.revoked_at_us is None


def make_key(
    connection: Connection,
    *,
    now: int,
    org: str | None,
    role: Role,
    host_id: str = "",
    description: str = "",
    created_by: str,
) -> NewApiKey:
    """Make and store a key with fields that were checked; `now` in epoch microseconds."""
    key_id = secrets.token_hex(KEY_ID_BYTES)
    secret = f"{KEY_PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    insert_key(
        connection,
        ApiKeyRecord(key_id, _hash(secret), org, role.value, host_id or None, description, now, created_by),
    )
    return NewApiKey(key_id, secret)


def _check_fields(org: str | None, role: Role, host_id: str, description: str) -> None:
    if org is not None and not is_org_name(org):
        raise InvalidField(f"`{org[:64]}` is not an org name; use 1 to 63 of [A-Za-z0-9_-], alphanumeric at both ends")
    if role is Role.HOST:
        if org is None:
            raise InvalidField("a host's key needs the org that the host belongs to")
        if not _HOST_ID.fullmatch(host_id):
            raise InvalidField("a host's key needs host_id: 1 to 128 of [A-Za-z0-9._-]")
    elif host_id:
        raise InvalidField(f"a key with the role `{role}` has no host_id; leave it out or choose the role `host`")
    if len(description) > MAX_DESCRIPTION_CHARS or not description.isprintable():
        raise InvalidField(f"description must be at most {MAX_DESCRIPTION_CHARS} printable characters")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("ascii")).digest()
