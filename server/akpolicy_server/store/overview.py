"""Numbers about everything, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select

from akpolicy_server.store.tables import layers, orgs, revisions

if TYPE_CHECKING:
    from sqlalchemy import Connection


def count_orgs(connection: Connection) -> int:
    """Return the number of orgs."""
    return connection.scalar(select(func.count()).select_from(orgs)) or 0


def earliest_expiry(connection: Connection) -> int:
    """Return when the first of the bundles that hosts get expires, in epoch seconds; 0 without bundles."""
    query = select(func.min(revisions.c.expires_at)).join(
        layers,
        and_(
            layers.c.scope == revisions.c.scope,
            layers.c.epoch == revisions.c.epoch,
            layers.c.version == revisions.c.version,
        ),
    )
    return connection.scalar(query.where(layers.c.in_force)) or 0
