"""Who is there: renewed in the database every so often for every open stream.

Rules:

- A host with a stream that was not seen for `GONE_AFTER_S` is gone, also if the server that it was connected to was
  killed and could not say so.
- While the database does not answer, nothing is renewed; the next round does it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy_server.store.hosts import see_hosts
from akpolicy_server.times import GONE_AFTER_S, GONE_AFTER_US, now_us

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_server.fanout import Fanout
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.reports import HostReports
    from akpolicy_server.store.engine import Database
    from akpolicy_server.threads import Threads

SEEN_INTERVAL_S: Final = GONE_AFTER_S // 3
COUNT_INTERVAL_S: Final = 5

log = structlog.get_logger(__name__)


def seen_since_us(clock: Clock) -> int:
    """Return since when a host must have been seen to be connected, in epoch microseconds."""
    return now_us(clock) - GONE_AFTER_US


class Presence:
    """Notes who is there."""

    def __init__(
        self, database: Database, threads: Threads, fanout: Fanout, reports: HostReports, metrics: ServerMetrics
    ) -> None:
        self._metrics = metrics
        self._reports = reports
        self._database = database
        self._threads = threads
        self._fanout = fanout

    async def run(self) -> None:
        """Note everybody, again and again, until cancelled."""
        while True:
            for _ in range(0, SEEN_INTERVAL_S, COUNT_INTERVAL_S):
                self.count()
                await asyncio.sleep(COUNT_INTERVAL_S)
            try:
                await self.renew()
            except StoreUnavailable as error:
                log.warning("who is connected is not renewed", reason=error.message)

    def count(self) -> None:
        """Say in metrics how many hosts lack something for how long."""
        self._metrics.count_lags(self._fanout.lags_s())

    async def renew(self) -> None:
        """Note everybody who is connected; raise `StoreUnavailable`."""
        present, now = self._fanout.hosts, self._reports.now_us()
        if not present:
            return

        await self._threads.database(self._database.repeat, lambda connection: see_hosts(connection, present, now))
