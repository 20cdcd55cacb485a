"""What hosts report, on its way to the database.

Rules:

- Reports are gathered and written together, `FLUSH_INTERVAL_S` apart at the most often: a publish to thousands of hosts
  makes thousands of acks within a second, and each transaction costs a disk sync that publishers would wait for.
- The latest wins: per host one row, per scope one revision and one refusal. What did not change is not written again.
- What a connection says is dropped where a later one of the same host has spoken: it may be with another server by now.
- While the database does not answer, reports are kept and written later. A crash loses the last moment's; the hosts
  report what they enforce again when they reconnect.

Runs on the event loop; only the writing runs on a thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy_server.store.host_reports import HostReport, write_reports
from akpolicy_server.times import now_us

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.clock import Clock
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.hosts import HostKey, HostNack, HostRecord, HostRevision
    from akpolicy_server.threads import Threads

FLUSH_INTERVAL_S: Final = 0.2

log = structlog.get_logger(__name__)


class HostReports:
    """Gathers and writes what hosts report."""

    def __init__(self, database: Database, threads: Threads, clock: Clock) -> None:
        self._database = database
        self._threads = threads
        self._clock = clock
        self._pending: dict[HostKey, HostReport] = {}
        self._arrived = asyncio.Event()
        self._flushing = asyncio.Lock()
        # How far the clock that all servers share is ahead of this machine's.
        self.ahead_us = 0

    def now_us(self) -> int:
        """Return the wall clock that all servers share, in epoch microseconds."""
        return now_us(self._clock) + self.ahead_us

    def note(
        self,
        record: HostRecord,
        changes: Mapping[str, HostRevision | None],
        *,
        is_all: bool = False,
        accepted: tuple[str, ...] = (),
        refused: HostNack | None = None,
    ) -> None:
        """Note what a host says, by scope: what it accepted or refused, and what is different of what it enforces.

        None: nothing any more. With `is_all` it is all that the host enforces.
        """
        refusals: dict[str, HostNack | None] = dict.fromkeys(accepted)
        if refused is not None:
            refusals[refused.scope] = refused
        report = HostReport(record, dict(changes), is_all, refusals)
        earlier = self._pending.get(record.host)
        if earlier is None:
            self._pending[record.host] = report
        else:
            earlier.follow(report)
        self._arrived.set()

    async def run(self) -> None:
        """Write what arrives until cancelled."""
        while True:
            await self._arrived.wait()
            try:
                await self.flush()
            except StoreUnavailable as error:
                log.warning("host reports are kept for later", reason=error.message)
            await asyncio.sleep(FLUSH_INTERVAL_S)

    async def flush(self) -> None:
        """Write what there is now; raise `StoreUnavailable` and keep it."""
        async with self._flushing:
            batch, self._pending = self._pending, {}
            self._arrived.clear()
            if not batch:
                return
            try:
                await self._threads.database(self._write, list(batch.values()))
            except StoreUnavailable:
                for host, report in batch.items():
                    if later := self._pending.get(host):
                        report.follow(later)
                    self._pending[host] = report
                self._arrived.set()
                raise

    def _write(self, batch: list[HostReport]) -> None:
        self._database.repeat(lambda connection: write_reports(connection, batch))
