"""Numbers about everything, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, or_, select

from akpolicy_server.store.tables import orgs, revisions

if TYPE_CHECKING:
    from sqlalchemy import Connection


def count_orgs(connection: Connection) -> int:
    """Return the number of orgs."""
    return connection.scalar(select(func.count()).select_from(orgs)) or 0


def earliest_expiry(connection: Connection) -> int:
    """Return when the first of the current bundles expires, in epoch seconds; 0 without bundles."""
    newer = revisions.alias()
    is_superseded = exists().where(
        newer.c.scope == revisions.c.scope,
        or_(
            newer.c.epoch > revisions.c.epoch,
            and_(newer.c.epoch == revisions.c.epoch, newer.c.version > revisions.c.version),
        ),
    )
    return connection.scalar(select(func.min(revisions.c.expires_at)).where(~is_superseded)) or 0
