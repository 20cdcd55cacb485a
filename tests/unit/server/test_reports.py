"""What hosts report: gathered, then written."""

from __future__ import annotations

import asyncio
from contextlib import closing, contextmanager
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
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from tests.unit.server.conftest import Core

HOST = HostKey("acme", "host-1")
REVISION = HostRevision("org/acme", 1, 7, b"d" * 32)
NACK = HostNack("org/acme", 1, 8, "SignatureInvalid", "does not verify", "")


def _record(seen: int) -> HostRecord:
    return HostRecord(HOST, "0.1.0", 1, connected_at_us=1, last_seen_at_us=seen)


def test_the_latest_report_of_a_host_is_written(core: Core) -> None:
    async def scenario() -> None:
        with closing(Threads()) as threads:
            reports = HostReports(core.database, threads, core.clock)
            reports.note(_record(1), (HostRevision("global", 1, 1, b"g" * 32), REVISION))
            reports.note(_record(2), (REVISION,), refused=NACK)
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
            reports.note(_record(1), (), refused=NACK)
            reports.note(_record(1), (), refused=other)
            await reports.flush()
            reports.note(_record(2), (REVISION,), accepted=("org/acme",))
            await reports.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        assert refused_by(connection, HOST) == [other]


def test_reports_survive_a_database_that_does_not_answer(core: Core) -> None:
    class Flaky:
        """The real database, which refuses once."""

        failures = 1

        @contextmanager
        def write(self) -> Iterator[Connection]:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("busy")
            with core.database.write() as connection:
                yield connection

    async def scenario() -> None:
        with closing(Threads()) as threads:
            reports = HostReports(Flaky(), threads, core.clock)  # type: ignore[arg-type]
            reports.note(_record(1), (), refused=NACK)
            with pytest.raises(StoreUnavailable):
                await reports.flush()
            reports.note(_record(2), (REVISION,))
            await reports.flush()

    asyncio.run(scenario())
    with core.database.read() as connection:
        assert enforced_by(connection, HOST) == [REVISION]
        assert refused_by(connection, HOST) == [NACK]
