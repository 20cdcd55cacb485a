"""Which revisions are needed no more, and how they and their content go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, delete, exists, func, or_, select

from akpolicy_server.store.batches import batches
from akpolicy_server.store.tables import blobs, host_nacks, host_revisions, layers, revisions

if TYPE_CHECKING:
    from collections.abc import Collection

# Whoever names a revision beside the table itself.
_NAMED = or_(
    *(
        exists().where(
            table.c.scope == revisions.c.scope,
            table.c.epoch == revisions.c.epoch,
            table.c.version == revisions.c.version,
        )
        for table in (layers, host_revisions, host_nacks)
    )
)


@dataclass(frozen=True, slots=True)
class Outlived:
    """Revisions of one scope that may go, by their serials, and the digests of their content."""

    serials: tuple[int, ...]
    contents: frozenset[bytes]


def scopes_with_older(connection: Connection, before_us: int) -> list[str]:
    """Return the scopes of which a revision was published before this time, and more than one at all."""
    query = select(revisions.c.scope).group_by(revisions.c.scope)
    few_or_young = query.having(and_(func.min(revisions.c.published_at_us) < before_us, func.count() > 1))
    return list(connection.scalars(few_or_young.order_by(revisions.c.scope)))


def outlived(connection: Connection, scope: str, *, before_us: int, contents: int) -> Outlived:
    """Return what of a scope was published before this time and is needed no more."""
    columns = (revisions.c.serial, revisions.c.epoch, revisions.c.version, revisions.c.content_digest)
    query = select(*columns, revisions.c.published_at_us, revisions.c.restores_version, _NAMED.label("is_named"))
    newest: set[int] = set()
    window: set[bytes] = set()
    # By which bundle of an epoch one can return to some content; a rollback needs what it restores.
    reachable: set[tuple[int, bytes]] = set()
    restored: set[tuple[int, int]] = set()
    going: dict[int, bytes] = {}
    for row in connection.execute(query.where(revisions.c.scope == scope).order_by(revisions.c.serial.desc())):
        if len(window) < contents:
            window.add(row.content_digest)
        is_needed = (
            row.epoch not in newest
            or row.published_at_us >= before_us
            or row.is_named
            or (row.epoch, row.version) in restored
            or (row.content_digest in window and (row.epoch, row.content_digest) not in reachable)
        )
        newest.add(row.epoch)
        if not is_needed:
            going[row.serial] = row.content_digest
        elif row.restores_version is not None:
            restored.add((row.epoch, row.restores_version))
        else:
            reachable.add((row.epoch, row.content_digest))
    return Outlived(tuple(going), frozenset(going.values()))


def remove_revisions(connection: Connection, gone: Outlived) -> int:
    """Remove revisions, and the content that no other revision has; return how many bytes of content that is."""
    for some in batches(gone.serials):
        connection.execute(delete(revisions).where(revisions.c.serial.in_(some)))
    return sum(_remove_unused(connection, some) for some in batches(sorted(gone.contents)))


def _remove_unused(connection: Connection, digests: Collection[bytes]) -> int:
    is_unused = and_(blobs.c.digest.in_(digests), ~exists().where(revisions.c.content_digest == blobs.c.digest))
    size = connection.scalar(select(func.coalesce(func.sum(blobs.c.size), 0)).where(is_unused)) or 0
    connection.execute(delete(blobs).where(is_unused))
    return int(size)
