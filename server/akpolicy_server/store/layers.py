"""What is current: the layers of each org, and how often they or its root have changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, and_, func, insert, literal, select, update

from akpolicy.scope import GLOBAL, org_scope
from akpolicy_server.store.batches import batches
from akpolicy_server.store.notices import tell_changed
from akpolicy_server.store.revisions import RevisionRecord, revision_of
from akpolicy_server.store.tables import generations, layers, revisions

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from sqlalchemy import ColumnElement, Select


IS_REVISION: Final = and_(
    layers.c.scope == revisions.c.scope,
    layers.c.epoch == revisions.c.epoch,
    layers.c.version == revisions.c.version,
)
# The one that the transaction which changes a layer ends with.
_NEXT_GENERATION: Final = (
    select(func.coalesce(func.max(generations.c.seq), 0) + 1).where(generations.c.org == layers.c.org).scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class Layer:
    """The revision of a scope that an org's hosts were given last; `in_force`: they have not dropped it since."""

    revision: RevisionRecord
    in_force: bool


def layers_of(connection: Connection, org: str) -> dict[str, Layer]:
    """Return an org's layers by scope, in the order of their names."""
    query = _with_revisions(layers.c.org == org).order_by(layers.c.scope)
    return {row.scope: Layer(revision_of(row), row.in_force) for row in connection.execute(query)}


def layers_since(connection: Connection, org: str, seq: int) -> dict[str, Layer]:
    """Return those of an org's layers that were changed after its generation `seq`, by scope."""
    query = _with_revisions(and_(layers.c.org == org, layers.c.since > seq)).order_by(layers.c.scope)
    return {row.scope: Layer(revision_of(row), row.in_force) for row in connection.execute(query)}


def find_layer(connection: Connection, org: str, scope: str) -> Layer | None:
    """Return an org's layer of one scope, or None if its hosts were never given any."""
    row = connection.execute(_with_revisions(and_(layers.c.org == org, layers.c.scope == scope))).first()
    return None if row is None else Layer(revision_of(row), row.in_force)


def contents_of(connection: Connection, org: str, scopes: Collection[str]) -> list[tuple[str, bytes]]:
    """Return the digest of the content that an org's hosts have of each of these scopes, where they have any."""
    return _contents(connection, and_(layers.c.org == org, layers.c.scope.in_(scopes)))


def contents_of_org(connection: Connection, org: str, *, but: str) -> list[tuple[str, bytes]]:
    """Return the digest of the content that an org's hosts were given last of every scope but one, in force or not."""
    query = select(layers.c.scope, revisions.c.content_digest).join(revisions, IS_REVISION)
    found = connection.execute(query.where(layers.c.org == org, layers.c.scope != but))
    return [(row.scope, row.content_digest) for row in found]


def own_contents(connection: Connection, org: str | None = None) -> dict[str, bytes]:
    """Return the digest of the content that hosts were given last of their org's own scope, of all orgs or of one."""
    is_own = layers.c.scope == literal(org_scope("")) + layers.c.org
    query = select(layers.c.org, revisions.c.content_digest).join(revisions, IS_REVISION).where(is_own)
    if org is not None:
        query = query.where(layers.c.org == org, layers.c.scope == org_scope(org))
    return {row.org: row.content_digest for row in connection.execute(query)}


def contents_of_teams(connection: Connection, org: str) -> list[tuple[str, bytes]]:
    """Return the digest of the content that an org's hosts have of each team."""
    # The character after the slash is the zero; a pattern would have to escape what org names may have.
    first, beyond = f"{org_scope(org)}/team/", f"{org_scope(org)}/team0"
    return _contents(connection, and_(layers.c.org == org, layers.c.scope >= first, layers.c.scope < beyond))


def _contents(connection: Connection, condition: ColumnElement[bool]) -> list[tuple[str, bytes]]:
    query = (
        select(layers.c.scope, revisions.c.content_digest)
        .join(revisions, IS_REVISION)
        .where(and_(layers.c.in_force, condition))
    )
    return [(row.scope, row.content_digest) for row in connection.execute(query)]


def names_of(connection: Connection, org: str) -> tuple[int, int]:
    """Return how many scopes but `global` an org's hosts were ever given, and how many characters their names have."""
    query = select(func.count(), func.coalesce(func.sum(func.length(layers.c.scope)), 0))
    count, chars = connection.execute(query.where(layers.c.org == org, layers.c.scope != GLOBAL)).one()
    return int(count), int(chars)


def layers_of_scope(connection: Connection, scope: str) -> dict[str, Layer]:
    """Return the layers of one scope by org."""
    query = _with_revisions(layers.c.scope == scope).add_columns(layers.c.org)
    revision: RevisionRecord | None = None
    found: dict[str, Layer] = {}
    for row in connection.execute(query.order_by(revisions.c.serial)):
        # Most orgs have the same one.
        if revision is None or revision.serial != row.serial:
            revision = revision_of(row)
        found[row.org] = Layer(revision, row.in_force)
    return found


def layers_past_half_life(connection: Connection, now: int) -> list[RevisionRecord]:
    """Return the revisions that hosts of any org get and that are past half of their lives, each once, oldest first."""
    is_past = revisions.c.issued_at + revisions.c.expires_at <= 2 * now
    rows = connection.execute(_with_revisions(and_(layers.c.in_force, is_past)).order_by(revisions.c.serial))
    return list({row.serial: revision_of(row) for row in rows}.values())


def set_layers(connection: Connection, orgs: Collection[str], revision: RevisionRecord) -> None:
    """Give the hosts of these orgs this revision of its scope from now on."""
    values = {"epoch": revision.epoch, "version": revision.version, "in_force": True}
    for some in batches(orgs):
        here = and_(layers.c.org.in_(some), layers.c.scope == revision.scope)
        present = set(connection.scalars(select(layers.c.org).where(here)))
        connection.execute(update(layers).where(here).values(since=_NEXT_GENERATION, **values))
        seqs = generations_of(connection, some)
        new = [
            {"org": org, "scope": revision.scope, "since": seqs.get(org, 0) + 1, **values}
            for org in some
            if org not in present
        ]
        if new:
            connection.execute(insert(layers), new)


def drop_layer(connection: Connection, org: str, scope: str) -> None:
    """Note that an org's hosts drop a scope; what they had is kept, because they take nothing older."""
    here = and_(layers.c.org == org, layers.c.scope == scope)
    connection.execute(update(layers).where(here).values(in_force=False, since=_NEXT_GENERATION))


def begin_generation(connection: Connection, org: str) -> None:
    """Begin to count an org's generations."""
    connection.execute(insert(generations).values(org=org, seq=0))


def bump_generations(connection: Connection, orgs: Collection[str]) -> None:
    """Count one more generation for each of the orgs, and tell other servers."""
    tell_changed(connection, orgs)
    for some in batches(orgs):
        connection.execute(update(generations).where(generations.c.org.in_(some)).values(seq=generations.c.seq + 1))


def generations_of(connection: Connection, orgs: Collection[str]) -> dict[str, int]:
    """Return the generation of each of the orgs that there are."""
    query = select(generations.c.org, generations.c.seq).where(generations.c.org.in_(orgs))
    return {row.org: row.seq for row in connection.execute(query)}


def _with_revisions(condition: ColumnElement[bool]) -> Select[Any]:
    return select(revisions, layers.c.in_force).join(layers, IS_REVISION).where(condition)
