"""Writes what many hosts report, with a few statements for all of them.

Rules:

- A publish to thousands of hosts makes thousands of reports at once. Each statement takes some hundred hosts: one a
  host and table would cost more than the stream that they came from.
- A row of a connection that began later stays, and whatever an older connection says with it: the end of an old one is
  no news.
- What is stored as it is said is not written again, and a refusal that is not stored need not be removed.
- Hosts are written in one order, so that servers which write at once do not wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from akpolicy_server.store.batches import batches
from akpolicy_server.store.hosts import HostKey, HostNack, HostRecord, HostRevision
from akpolicy_server.store.tables import host_nacks, host_revisions, hosts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Any

    from sqlalchemy import ColumnElement, Connection, Table

    Row = dict[str, Any]

_KEY = ("org", "host_id")
_SCOPE_KEY = (*_KEY, "scope")


@dataclass(slots=True)
class HostReport:
    """The latest of one host: what is different of what it enforces, None for what ended; or all of it (`is_all`).

    `refusals` None for a scope: an update of it took effect.
    """

    record: HostRecord
    changes: dict[str, HostRevision | None]
    is_all: bool
    refusals: dict[str, HostNack | None]

    def follow(self, later: HostReport) -> None:
        """Take over what is said later, at the cost of that alone."""
        # The end of an old connection may be reported after the beginning of the next one.
        if later.record.connected_at_us >= self.record.connected_at_us:
            self.record = later.record
        self.refusals |= later.refusals
        if later.is_all:
            self.changes, self.is_all = later.changes, True
        else:
            self.changes |= later.changes


def write_reports(connection: Connection, reports: Iterable[HostReport]) -> None:
    """Write reports, at most one a host."""
    for some in batches(sorted(reports, key=lambda report: report.record.host)):
        _write_hosts(connection, some)
        newest = _newest(connection, some)
        _write_revisions(connection, newest)
        _write_refusals(connection, newest)


def _write_hosts(connection: Connection, reports: Sequence[HostReport]) -> None:
    rows = [
        {
            "org": record.host.org,
            "host_id": record.host.host_id,
            "software_version": record.software_version,
            "root_version": record.root_version,
            "connected_at_us": record.connected_at_us,
            "last_seen_at_us": record.last_seen_at_us,
            "disconnected_at_us": record.disconnected_at_us,
            "update_mode": record.update_mode.value,
        }
        for record in (report.record for report in reports)
    ]
    _upsert(connection, hosts, _KEY, rows, newer="connected_at_us")


def _newest(connection: Connection, reports: Sequence[HostReport]) -> list[HostReport]:
    """Return the reports of connections that no later one took the place of."""
    columns = (hosts.c.org, hosts.c.host_id, hosts.c.connected_at_us)
    rows = _rows_of(connection, hosts, columns, [report.record.host for report in reports])
    since = {HostKey(row.org, row.host_id): row.connected_at_us for row in rows}
    return [report for report in reports if since.get(report.record.host, 0) <= report.record.connected_at_us]


def _write_revisions(connection: Connection, reports: Sequence[HostReport]) -> None:
    stored = _stored_revisions(connection, [report.record.host for report in reports if report.is_all])
    ended: list[Row] = []
    written: list[Row] = []
    for report in reports:
        host, changes = report.record.host, report.changes
        if report.is_all:
            changes = _differences(stored[host], changes)
        for scope, revision in changes.items():
            key = {"org": host.org, "host_id": host.host_id, "scope": scope}
            if revision is None:
                ended.append(key)
            else:
                written.append(key | _revision_values(revision, report.record.last_seen_at_us))
    _delete(connection, host_revisions, ended)
    _upsert(connection, host_revisions, _SCOPE_KEY, written)


def _differences(
    stored: dict[str, HostRevision], enforced: dict[str, HostRevision | None]
) -> dict[str, HostRevision | None]:
    """Return what is stored otherwise than this, which is all that a host enforces; None for what it does not."""
    changes: dict[str, HostRevision | None] = dict.fromkeys(stored.keys() - enforced.keys())
    return changes | {scope: revision for scope, revision in enforced.items() if stored.get(scope) != revision}


def _stored_revisions(connection: Connection, keys: Collection[HostKey]) -> dict[HostKey, dict[str, HostRevision]]:
    c = host_revisions.c
    found = defaultdict[HostKey, dict[str, HostRevision]](dict)
    columns = (c.org, c.host_id, c.scope, c.epoch, c.version, c.digest)
    for row in _rows_of(connection, host_revisions, columns, keys):
        revision = HostRevision(row.scope, row.epoch, row.version, row.digest)
        found[HostKey(row.org, row.host_id)][row.scope] = revision
    return found


def _revision_values(revision: HostRevision, at_us: int) -> Row:
    return {
        "epoch": revision.epoch,
        "version": revision.version,
        "digest": revision.digest,
        "reported_at_us": at_us,
    }


def _write_refusals(connection: Connection, reports: Sequence[HostReport]) -> None:
    columns = (host_nacks.c.org, host_nacks.c.host_id, host_nacks.c.scope)
    rows = _rows_of(connection, host_nacks, columns, [report.record.host for report in reports])
    stored = {(HostKey(row.org, row.host_id), row.scope) for row in rows}
    ended: list[Row] = []
    written: list[Row] = []
    for report in reports:
        host = report.record.host
        for scope, nack in report.refusals.items():
            key = {"org": host.org, "host_id": host.host_id, "scope": scope}
            if nack is not None:
                written.append(key | _nack_values(nack, report.record.last_seen_at_us))
            elif (host, scope) in stored:
                ended.append(key)
    _delete(connection, host_nacks, ended)
    _upsert(connection, host_nacks, _SCOPE_KEY, written)


def _nack_values(nack: HostNack, at_us: int) -> Row:
    return {
        "epoch": nack.epoch,
        "version": nack.version,
        "code": nack.code,
        "detail": nack.detail,
        "policy_id": nack.policy_id,
        "reported_at_us": at_us,
    }


def _rows_of(
    connection: Connection, table: Table, columns: tuple[ColumnElement[Any], ...], keys: Iterable[HostKey]
) -> Iterator[Any]:
    """Yield the rows of these hosts."""
    by_org = defaultdict[str, list[str]](list)
    for key in keys:
        by_org[key.org].append(key.host_id)
    for org, host_ids in by_org.items():
        for some in batches(host_ids):
            yield from connection.execute(select(*columns).where(table.c.org == org, table.c.host_id.in_(some)))


def _upsert(
    connection: Connection, table: Table, key: tuple[str, ...], rows: Sequence[Row], *, newer: str | None = None
) -> None:
    """Insert rows, or write them over those with the same key; with `newer`, unless that column is higher there."""
    if not rows:
        return
    # The same clause in two dialects, which have no name for it in common.
    insert = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    others = {name: insert.excluded[name] for name in rows[0] if name not in key}
    where = None if newer is None else table.c[newer] <= insert.excluded[newer]
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=others, where=where), rows)


def _delete(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    if rows:
        # Not the names of the columns, which SQLAlchemy keeps for values that are set.
        here = and_(*(table.c[name] == bindparam(f"of_{name}") for name in _SCOPE_KEY))
        connection.execute(
            delete(table).where(here), [{f"of_{name}": row[name] for name in _SCOPE_KEY} for row in rows]
        )
