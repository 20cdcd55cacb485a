"""What hosts report: when they were there, what they enforce, what they refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, select, update

from akpolicy_server.store.batches import batches
from akpolicy_server.store.tables import host_nacks, host_revisions, hosts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from sqlalchemy import Row


@dataclass(frozen=True, slots=True, order=True)
class HostKey:
    """A host of an org."""

    org: str
    host_id: str


class UpdateMode(StrEnum):
    """How a host gets its policy."""

    STREAM = "stream"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host that connected at least once; `disconnected_at_us` None: nobody noticed that it left."""

    host: HostKey
    software_version: str
    root_version: int
    connected_at_us: int
    last_seen_at_us: int
    disconnected_at_us: int | None = None
    update_mode: UpdateMode = UpdateMode.STREAM


@dataclass(frozen=True, slots=True)
class HostRevision:
    """What a host enforces for one scope, by its own account."""

    scope: str
    epoch: int
    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class HostNack:
    """The last update of a scope that a host refused, and why."""

    scope: str
    epoch: int
    version: int
    code: str
    detail: str
    policy_id: str


def upsert_host(connection: Connection, record: HostRecord) -> bool:
    """Write a host's row; return False if a connection that began later wrote it: the end of an old one is no news."""
    values = {
        "software_version": record.software_version,
        "root_version": record.root_version,
        "connected_at_us": record.connected_at_us,
        "last_seen_at_us": record.last_seen_at_us,
        "disconnected_at_us": record.disconnected_at_us,
        "update_mode": record.update_mode.value,
    }
    here = _is_host(hosts, record.host)
    is_newest = hosts.c.connected_at_us <= record.connected_at_us
    if connection.execute(update(hosts).where(here, is_newest).values(**values)).rowcount:
        return True
    if connection.scalar(select(hosts.c.host_id).where(here)) is not None:
        return False
    connection.execute(insert(hosts).values(org=record.host.org, host_id=record.host.host_id, **values))
    return True


def see_hosts(connection: Connection, present: Collection[HostKey], now_us: int) -> None:
    """Note that these hosts are there."""
    by_org = defaultdict[str, list[str]](list)
    for host in present:
        by_org[host.org].append(host.host_id)
    for org, host_ids in by_org.items():
        for some in batches(host_ids):
            here = and_(hosts.c.org == org, hosts.c.host_id.in_(some), hosts.c.last_seen_at_us < now_us)
            connection.execute(update(hosts).where(here).values(last_seen_at_us=now_us, disconnected_at_us=None))


def differences(
    connection: Connection, host: HostKey, enforced: Mapping[str, HostRevision | None]
) -> dict[str, HostRevision | None]:
    """Return what is stored otherwise than this, which is all that a host enforces; None for what it does not."""
    stored = {revision.scope: revision for revision in enforced_by(connection, host)}
    changes: dict[str, HostRevision | None] = dict.fromkeys(stored.keys() - enforced.keys())
    return changes | {scope: revision for scope, revision in enforced.items() if stored.get(scope) != revision}


def write_revisions(
    connection: Connection, host: HostKey, changes: Mapping[str, HostRevision | None], now_us: int
) -> None:
    """Write what a host enforces now of these scopes; None for nothing."""
    for some in batches(changes):
        here = and_(_is_host(host_revisions, host), host_revisions.c.scope.in_(some))
        connection.execute(delete(host_revisions).where(here))
    rows = [
        {
            "org": host.org,
            "host_id": host.host_id,
            "scope": revision.scope,
            "epoch": revision.epoch,
            "version": revision.version,
            "digest": revision.digest,
            "reported_at_us": now_us,
        }
        for revision in changes.values()
        if revision is not None
    ]
    if rows:
        connection.execute(insert(host_revisions), rows)


def replace_nack(connection: Connection, host: HostKey, nack: HostNack, now_us: int) -> None:
    """Write the last refusal of a scope."""
    clear_nack(connection, host, nack.scope)
    connection.execute(
        insert(host_nacks).values(
            org=host.org,
            host_id=host.host_id,
            scope=nack.scope,
            epoch=nack.epoch,
            version=nack.version,
            code=nack.code,
            detail=nack.detail,
            policy_id=nack.policy_id,
            reported_at_us=now_us,
        )
    )


def clear_nack(connection: Connection, host: HostKey, scope: str) -> None:
    """Forget a scope's refusal: an update took effect."""
    connection.execute(delete(host_nacks).where(_is_host(host_nacks, host), host_nacks.c.scope == scope))


def find_host(connection: Connection, host: HostKey) -> HostRecord | None:
    """Return a host, or None if it never connected."""
    row = connection.execute(select(hosts).where(_is_host(hosts, host))).first()
    if row is None:
        return None
    return host_of(row)


def host_of(row: Row[Any]) -> HostRecord:
    """Return the host of a row of its table."""
    return HostRecord(
        HostKey(row.org, row.host_id),
        row.software_version,
        row.root_version,
        row.connected_at_us,
        row.last_seen_at_us,
        row.disconnected_at_us,
        UpdateMode(row.update_mode),
    )


def enforced_by(connection: Connection, host: HostKey) -> list[HostRevision]:
    """Return what a host enforces, by scope."""
    query = select(host_revisions).where(_is_host(host_revisions, host)).order_by(host_revisions.c.scope)
    return [HostRevision(row.scope, row.epoch, row.version, row.digest) for row in connection.execute(query)]


def refused_by(connection: Connection, host: HostKey) -> list[HostNack]:
    """Return what a host refuses, by scope."""
    query = select(host_nacks).where(_is_host(host_nacks, host)).order_by(host_nacks.c.scope)
    return [
        HostNack(row.scope, row.epoch, row.version, row.code, row.detail, row.policy_id)
        for row in connection.execute(query)
    ]


def _is_host(table: Table, host: HostKey) -> ColumnElement[Any]:
    return and_(table.c.org == host.org, table.c.host_id == host.host_id)
