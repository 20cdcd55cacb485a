"""An org's hosts beside what they are given.

Rules:

- A host is connected if it was seen after `seen_since_us` and nobody noticed that it left. Who sees hosts renews that
  every so often, so that a host of a server that was killed ends as gone too. A host that polls is connected until the
  moment at which it leaves unless it asks again, which is then still to come.
- What a host should enforce is each layer of its org that is in force. A layer that it lacks counts from the time when
  the layer's revision was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, case, func, or_, select

from akpolicy_server.store.hosts import HostNack, HostRecord, HostRevision, UpdateMode, host_of
from akpolicy_server.store.layers import IS_REVISION
from akpolicy_server.store.tables import host_nacks, host_revisions, hosts, layers, revisions
from akpolicy_server.times import GONE_AFTER_US

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from sqlalchemy import ColumnElement, Connection

    from akpolicy_server.store.revisions import RevisionRecord


@dataclass(frozen=True, slots=True)
class Lag:
    """What a host should enforce and does not: the wanted revision, when it was published, what it enforces instead."""

    wanted: HostRevision
    published_at_us: int
    enforced: HostRevision | None
    acked_at_us: int | None


@dataclass(frozen=True, slots=True)
class Reach:
    """How many connected hosts enforce a revision, how many do not, how many refused it.

    `oldest_version` is the lowest that one enforces of the revision's epoch; 0 if one enforces none of it.
    """

    current: int
    behind: int
    refusing: int
    oldest_version: int


def presence(connection: Connection, org: str, seen_since_us: int) -> tuple[dict[str, int], int]:
    """Return how many hosts are connected, by the version of their software, and how many are gone."""
    query = select(hosts.c.software_version, func.count().label("connected")).where(hosts.c.org == org)
    here = query.where(_is_connected(seen_since_us)).group_by(hosts.c.software_version)
    rows = connection.execute(here.order_by(hosts.c.software_version))
    connected = {row.software_version: int(row.connected) for row in rows}
    everybody = connection.scalar(select(func.count()).select_from(hosts).where(hosts.c.org == org)) or 0
    return connected, everybody - sum(connected.values())


def hosts_by_mode(connection: Connection, seen_since_us: int) -> tuple[dict[UpdateMode, int], int]:
    """Return how many hosts of all orgs are connected, by how they get their policy, and how many are gone."""
    query = select(hosts.c.update_mode, func.count().label("connected")).where(_is_connected(seen_since_us))
    rows = connection.execute(query.group_by(hosts.c.update_mode))
    connected = {UpdateMode(row.update_mode): int(row.connected) for row in rows}
    everybody = connection.scalar(select(func.count()).select_from(hosts)) or 0
    return connected, everybody - sum(connected.values())


def reach_of(connection: Connection, org: str, revision: RevisionRecord, seen_since_us: int) -> Reach:
    """Return how far a revision of a scope has come among an org's connected hosts."""
    of_scope = and_(_of_host(host_revisions), host_revisions.c.scope == revision.scope)
    refused = and_(
        _of_host(host_nacks),
        host_nacks.c.scope == revision.scope,
        host_nacks.c.epoch == revision.epoch,
        host_nacks.c.version == revision.version,
    )
    is_current = host_revisions.c.digest == revision.digest
    version = case((host_revisions.c.epoch == revision.epoch, host_revisions.c.version), else_=0)
    query = (
        select(
            func.count(),
            func.count().filter(is_current),
            func.count(host_nacks.c.scope),
            func.min(func.coalesce(version, 0)),
        )
        .select_from(hosts)
        .outerjoin(host_revisions, of_scope)
        .outerjoin(host_nacks, refused)
        .where(hosts.c.org == org, _is_connected(seen_since_us))
    )
    total, current, refusing, oldest = connection.execute(query).one()
    return Reach(current, total - current, refusing, oldest or 0)


def hosts_after(connection: Connection, org: str, host_id: str, limit: int) -> list[HostRecord]:
    """Return an org's hosts whose ids come after `host_id`, in order."""
    query = select(hosts).where(hosts.c.org == org, hosts.c.host_id > host_id).order_by(hosts.c.host_id).limit(limit)
    return [host_of(row) for row in connection.execute(query)]


def count_layers(connection: Connection, org: str) -> int:
    """Return how many scopes the hosts of an org should enforce."""
    query = select(func.count()).select_from(layers).where(layers.c.org == org, layers.c.in_force)
    return connection.scalar(query) or 0


def lags_of(connection: Connection, org: str, host_ids: Collection[str]) -> dict[str, list[Lag]]:
    """Return what each of these hosts lacks, the oldest first."""
    enforced = and_(_of_host(host_revisions), host_revisions.c.scope == layers.c.scope)
    query = (
        select(
            hosts.c.host_id,
            revisions.c.scope,
            revisions.c.epoch,
            revisions.c.version,
            revisions.c.digest,
            revisions.c.published_at_us,
            host_revisions.c.epoch.label("has_epoch"),
            host_revisions.c.version.label("has_version"),
            host_revisions.c.digest.label("has_digest"),
            host_revisions.c.reported_at_us,
        )
        .select_from(hosts)
        .join(layers, and_(layers.c.org == hosts.c.org, layers.c.in_force))
        .join(revisions, IS_REVISION)
        .outerjoin(host_revisions, enforced)
        .where(hosts.c.org == org, hosts.c.host_id.in_(host_ids))
        .where(or_(host_revisions.c.digest.is_(None), host_revisions.c.digest != revisions.c.digest))
        .order_by(revisions.c.published_at_us, revisions.c.scope)
    )
    found: dict[str, list[Lag]] = {host_id: [] for host_id in host_ids}
    for row in connection.execute(query):
        has = (
            None if row.has_digest is None else HostRevision(row.scope, row.has_epoch, row.has_version, row.has_digest)
        )
        wanted = HostRevision(row.scope, row.epoch, row.version, row.digest)
        found[row.host_id].append(Lag(wanted, row.published_at_us, has, row.reported_at_us))
    return found


def refusals_of(connection: Connection, org: str, host_ids: Collection[str]) -> dict[str, list[tuple[HostNack, int]]]:
    """Return what each of these hosts refused, with when it said so in epoch microseconds, the newest first."""
    query = select(host_nacks).where(host_nacks.c.org == org, host_nacks.c.host_id.in_(host_ids))
    found: dict[str, list[tuple[HostNack, int]]] = {host_id: [] for host_id in host_ids}
    for row in connection.execute(query.order_by(host_nacks.c.reported_at_us.desc(), host_nacks.c.scope)):
        nack = HostNack(row.scope, row.epoch, row.version, row.code, row.detail, row.policy_id)
        found[row.host_id].append((nack, row.reported_at_us))
    return found


def _is_connected(seen_since_us: int) -> ColumnElement[bool]:
    is_streaming = and_(hosts.c.disconnected_at_us.is_(None), hosts.c.last_seen_at_us >= seen_since_us)
    return or_(is_streaming, hosts.c.disconnected_at_us > seen_since_us + GONE_AFTER_US)


def _of_host(table: Any) -> ColumnElement[bool]:  # noqa: ANN401 - tables have any columns
    return and_(table.c.org == hosts.c.org, table.c.host_id == hosts.c.host_id)
