"""What hosts report: gathered, then written."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import StoreUnavailable
from akpolicy_server.reports import HostReports
from akpolicy_server.store.hosts import (
    HostKey,
    HostNack,
    HostRecord,
    HostRevision,
    enforced_by,
    find_host,
    refused_by,
)
from akpolicy_server.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from tests.unit.server.conftest import Core

HOST = HostKey("acme", "host-1")
REVISION = HostRevision("org/acme", 1, 7, b"d" * 32)
NACK = HostNack("org/acme", 1, 8, "SignatureInvalid", "does not verify", "")


def _record(seen: int) -> HostRecord:
    return HostRecord(HOST, "0.1.0", 1, connected_at_us=1, last_seen_at_us=seen)


def _by_scope(*revisions: HostRevision) -> dict[str, HostRevision | None]:
    return {revision.scope: revision for revision in revisions}


def _written(core: Core, *flushes: Sequence[tuple[dict[str, HostRevision | None], bool]]) -> list[HostRevision]:
    """Return what is stored of the host after reports, some at a time."""

    async def scenario() -> None:
        with closing(Threads()) as threads:
            reports = HostReports(core.database, threads, core.clock)
            for flush in flushes:
                for changes, is_all in flush:
                    reports.note(_record(1), changes, is_all=is_all)
                await reports.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        return enforced_by(connection, HOST)


def test_what_is_different_is_written_and_the_rest_stays(core: Core) -> None:
    first = [HostRevision(f"org/acme/team/{name}", 1, 1, b"d" * 32) for name in "abc"]
    second = HostRevision("org/acme/team/b", 1, 2, b"e" * 32)

    assert _written(core, [(_by_scope(*first), True)], [(_by_scope(second), False)]) == [first[0], second, first[2]]


def test_what_ended_is_gone(core: Core) -> None:
    first = [HostRevision(f"org/acme/team/{name}", 1, 1, b"d" * 32) for name in "ab"]
    ended: dict[str, HostRevision | None] = {"org/acme/team/a": None}

    assert _written(core, [(_by_scope(*first), True)], [(ended, False)]) == [first[1]]
    assert _written(core, [(_by_scope(*first), True), (ended, False)]) == [first[1]]


def test_all_that_is_enforced_replaces_what_was_stored(core: Core) -> None:
    first = [HostRevision(f"org/acme/team/{name}", 1, 1, b"d" * 32) for name in "ab"]
    later = [first[1], HostRevision("org/acme/team/c", 1, 1, b"d" * 32)]

    assert _written(core, [(_by_scope(*first), True)], [(_by_scope(*later), True)]) == later
    assert _written(core, [(_by_scope(*first), True)], [(_by_scope(*first), False), (_by_scope(*later), True)]) == later


def test_the_latest_report_of_a_host_is_written(core: Core) -> None:
    async def scenario() -> None:
        with closing(Threads()) as threads:
            reports = HostReports(core.database, threads, core.clock)
            reports.note(_record(1), _by_scope(HostRevision("global", 1, 1, b"g" * 32), REVISION))
            reports.note(_record(2), _by_scope(REVISION), is_all=True, refused=NACK)
            await reports.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        assert find_host(connection, HOST) == _record(2)
        assert enforced_by(connection, HOST) == [REVISION]
        assert refused_by(connection, HOST) == [NACK]


def test_an_accepted_update_clears_the_scopes_refusal(core: Core) -> None:
    other = HostNack("global", 1, 3, "PolicyParseError", "", "p")

    async def scenario() -> None:
        with closing(Threads()) as threads:
            reports = HostReports(core.database, threads, core.clock)
            reports.note(_record(1), {}, refused=NACK)
            reports.note(_record(1), {}, refused=other)
            await reports.flush()
            reports.note(_record(2), _by_scope(REVISION), accepted=("org/acme",))
            await reports.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        assert refused_by(connection, HOST) == [other]


def test_what_an_older_connection_says_late_is_dropped(core: Core) -> None:
    async def scenario() -> None:
        with closing(Threads()) as threads:
            here, there = (HostReports(core.database, threads, core.clock) for _ in range(2))
            newer = HostRecord(HOST, "0.2.0", 2, connected_at_us=5, last_seen_at_us=5)
            there.note(newer, _by_scope(REVISION), is_all=True, refused=NACK)
            await there.flush()
            # The server that the host left, with what it could not write before.
            old = HostRevision("org/acme", 1, 6, b"e" * 32)
            gone = HostRecord(HOST, "0.1.0", 1, connected_at_us=4, last_seen_at_us=9, disconnected_at_us=9)
            here.note(gone, _by_scope(old), is_all=True, accepted=("org/acme",))
            await here.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        found = find_host(connection, HOST)
        assert enforced_by(connection, HOST) == [REVISION]
        assert refused_by(connection, HOST) == [NACK]
    assert found is not None
    assert (found.software_version, found.root_version, found.disconnected_at_us) == ("0.2.0", 2, None)


def test_reports_survive_a_database_that_does_not_answer(core: Core) -> None:
    class Flaky:
        """The real database, which refuses once."""

        failures = 1

        def repeat(self, work: Callable[[Connection], None]) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("busy")
            core.database.repeat(work)

    async def scenario() -> None:
        with closing(Threads()) as threads:
            reports = HostReports(Flaky(), threads, core.clock)  # type: ignore[arg-type]
            reports.note(_record(1), {}, refused=NACK)
            with pytest.raises(StoreUnavailable):
                await reports.flush()
            reports.note(_record(2), _by_scope(REVISION))
            await reports.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        assert enforced_by(connection, HOST) == [REVISION]
        assert refused_by(connection, HOST) == [NACK]
