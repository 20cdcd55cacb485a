"""Orgs with the anchors of their hosts, and whether the platform was set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, exists, insert, select

from akpolicy.keys import PublicKey
from akpolicy_server.store.tables import anchors, orgs, platform

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLATFORM_ROW: Final = 1


@dataclass(frozen=True, slots=True)
class OrgRecord:
    """An org: `threshold` of its `anchors` must have signed its first root.

    `first_root` is the payload that their owners were given to sign; None if the server signed it itself.
    """

    org: str
    anchors: tuple[PublicKey, ...]
    threshold: int
    first_root: bytes | None
    created_at_us: int


def set_up_platform(connection: Connection, now_us: int) -> None:
    """Note that the server was set up; once, when the database is new."""
    connection.execute(insert(platform).values(id=_PLATFORM_ROW, created_at_us=now_us))


def is_set_up(connection: Connection) -> bool:
    """Whether the server was set up."""
    return bool(connection.scalar(select(exists().where(platform.c.id == _PLATFORM_ROW))))


def insert_org(connection: Connection, record: OrgRecord) -> None:
    """Add an org with its anchors; an existing name breaks a constraint."""
    connection.execute(
        insert(orgs).values(
            org=record.org,
            created_at_us=record.created_at_us,
            anchor_threshold=record.threshold,
            first_root=record.first_root,
        )
    )
    connection.execute(
        insert(anchors),
        [
            {"org": record.org, "position": position, "public_key": key.raw}
            for position, key in enumerate(record.anchors)
        ],
    )


def org_exists(connection: Connection, org: str) -> bool:
    """Whether there is an org of that name."""
    return bool(connection.scalar(select(exists().where(orgs.c.org == org))))


def find_org(connection: Connection, org: str) -> OrgRecord | None:
    """Return the org, or None."""
    row = connection.execute(select(orgs).where(orgs.c.org == org)).first()
    if row is None:
        return None
    return OrgRecord(row.org, _anchors_of(connection, org), row.anchor_threshold, row.first_root, row.created_at_us)


def org_names(connection: Connection) -> Sequence[str]:
    """Return the name of every org, in order."""
    return connection.scalars(select(orgs.c.org).order_by(orgs.c.org)).all()


def _anchors_of(connection: Connection, org: str) -> tuple[PublicKey, ...]:
    query = select(anchors.c.public_key).where(anchors.c.org == org).order_by(anchors.c.position)
    return tuple(PublicKey.from_bytes(raw) for raw in connection.scalars(query))
