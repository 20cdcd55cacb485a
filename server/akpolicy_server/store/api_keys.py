"""API keys: only hashes of their secrets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, exists, insert, select, update

from akpolicy_server.access import Role
from akpolicy_server.store.tables import api_keys

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A key as it is kept. `org` None: a platform key. `host_id` is set exactly for the role `host`."""

    key_id: str
    secret_hash: bytes = field(repr=False)
    org: str | None
    role: str
    host_id: str | None
    description: str
    created_at_us: int
    created_by: str
    revoked_at_us: int | None = None


def insert_key(connection: Connection, record: ApiKeyRecord) -> None:
    """Add a key."""
    connection.execute(insert(api_keys).values(**asdict(record)))


def find_key(connection: Connection, key_id: str) -> ApiKeyRecord | None:
    """Return the key, revoked or not; None if there is none."""
    row = connection.execute(select(api_keys).where(api_keys.c.key_id == key_id)).mappings().first()
    return None if row is None else ApiKeyRecord(**row)


def revoke_key(connection: Connection, key_id: str, now_us: int) -> None:
    """Set the time of revocation, unless it is set: a revocation is never undone or moved."""
    connection.execute(
        update(api_keys)
        .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at_us.is_(None))
        .values(revoked_at_us=now_us)
    )


def has_other_platform_admin(connection: Connection, key_id: str) -> bool:
    """Whether a platform admin key beside `key_id` is in force."""
    other = (
        api_keys.c.key_id != key_id,
        api_keys.c.org.is_(None),
        api_keys.c.role == Role.ADMIN.value,
        api_keys.c.revoked_at_us.is_(None),
    )
    return bool(connection.scalar(select(exists().where(*other))))


def revoked_among(connection: Connection, key_ids: Collection[str]) -> set[str]:
    """Return which of the keys are revoked."""
    query = select(api_keys.c.key_id).where(api_keys.c.key_id.in_(key_ids), api_keys.c.revoked_at_us.is_not(None))
    return set(connection.scalars(query))
