"""The keys that the server made, by id. Their private halves are in the vault."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, insert, select

from akpolicy_server.store.tables import online_keys

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeyRole(StrEnum):
    """What a key was made for. What it may sign, roots say."""

    ROOT = "root"
    BUNDLE = "bundle"
    ROLLBACK = "rollback"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class OnlineKey:
    """A key that the server made for an org (None: the platform)."""

    key_id: str
    org: str | None
    role: KeyRole
    created_at_us: int


def insert_online_key(connection: Connection, key: OnlineKey) -> None:
    """Add a key whose file is written."""
    connection.execute(insert(online_keys).values(**asdict(key)))


def newest_key(connection: Connection, org: str | None, role: KeyRole) -> str | None:
    """Return the id of the key that was made last for a role of an org (None: the platform); None without any."""
    query = (
        select(online_keys.c.key_id)
        .where(online_keys.c.org == org if org is not None else online_keys.c.org.is_(None))
        .where(online_keys.c.role == role)
        .order_by(online_keys.c.created_at_us.desc(), online_keys.c.key_id)
    )
    return connection.scalar(query.limit(1))


def count_keys(connection: Connection, org: str | None) -> int:
    """Return how many keys were made for an org (None: the platform)."""
    owner = online_keys.c.org == org if org is not None else online_keys.c.org.is_(None)
    return connection.scalar(select(func.count()).select_from(online_keys).where(owner)) or 0


def online_key_ids(connection: Connection) -> Sequence[str]:
    """Return the id of every key that the server made."""
    return connection.scalars(select(online_keys.c.key_id)).all()
