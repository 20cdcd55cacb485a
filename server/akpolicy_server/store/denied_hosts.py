"""Hosts that are refused whatever they show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, func, insert, select

from akpolicy_server.store.tables import denied_hosts

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from akpolicy_server.store.hosts import HostKey


@dataclass(frozen=True, slots=True)
class DenialRecord:
    """A refused host, since when (epoch microseconds), and why."""

    org: str
    host_id: str
    denied_at_us: int
    reason: str


def insert_denial(connection: Connection, record: DenialRecord) -> None:
    """Refuse a host that is not refused."""
    connection.execute(insert(denied_hosts).values(**asdict(record)))


def delete_denial(connection: Connection, host: HostKey) -> bool:
    """Refuse a host no more; return whether it was refused."""
    return bool(connection.execute(delete(denied_hosts).where(*_is(host))).rowcount)


def find_denial(connection: Connection, host: HostKey) -> DenialRecord | None:
    """Return why a host is refused; None if it is not."""
    row = connection.execute(select(denied_hosts).where(*_is(host))).mappings().first()
    return None if row is None else DenialRecord(**row)


def count_denials(connection: Connection) -> int:
    """Return how many hosts are refused."""
    return connection.scalar(select(func.count()).select_from(denied_hosts)) or 0


def denials(connection: Connection) -> list[DenialRecord]:
    """Return every refused host, by org and id."""
    rows = connection.execute(select(denied_hosts).order_by(denied_hosts.c.org, denied_hosts.c.host_id)).mappings()
    return [DenialRecord(**row) for row in rows]


def _is(host: HostKey) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return denied_hosts.c.org == host.org, denied_hosts.c.host_id == host.host_id
