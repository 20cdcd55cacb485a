"""Hearing at once what other servers wrote to the same PostgreSQL database.

Rules:

- One connection of its own listens, past any pooler's transactions. It is tried every `PROBE_INTERVAL_S`; one that does
  not answer is given up and opened anew, with full jitter, never ending.
- Whatever was said while nobody listened is made up for: after each beginning everything that is kept in memory is read
  again, since the database may be another one than before, and the sweep looks for revoked keys.
- A notice is taken for what `store.notices` says it is: a reason to look. The sweep goes on beside it.
- The database's clock is that of all servers: how far it is ahead of this machine's is measured with each probe. So
  reports of several servers about one host can be put in order.
"""

from __future__ import annotations

import asyncio
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy_server.store.notices import CHANNEL, NoticeKind, read_notice
from akpolicy_server.store.postgresql import connection_info
from akpolicy_server.times import now_us

if TYPE_CHECKING:
    import psycopg

    from akpolicy.clock import Clock
    from akpolicy_server.catalog import Catalog
    from akpolicy_server.fanout import Fanout
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.reports import HostReports
    from akpolicy_server.store.engine import Database
    from akpolicy_server.sweep import Sweep

PROBE_INTERVAL_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 5.0
# A measurement that took longer says too little.
MAX_ROUND_TRIP_US: Final = 100_000

_NOW_US: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

log = structlog.get_logger(__name__)


class Hearing:
    """Listens to the other servers. Runs on the event loop."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        fanout: Fanout,
        sweep: Sweep,
        reports: HostReports,
        clock: Clock,
        metrics: ServerMetrics,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._fanout = fanout
        self._sweep = sweep
        self._reports = reports
        self._clock = clock
        self._metrics = metrics
        self._hears = False

    async def run(self) -> None:
        """Listen until cancelled; without other servers there is nothing to hear."""
        self._note(hears=not self._database.is_shared)
        if not self._database.is_shared:
            await asyncio.Event().wait()
        import psycopg  # noqa: PLC0415 - only who has such a database loads the driver

        jitter, pause_s = SystemRandom(), FIRST_PAUSE_S
        while True:
            try:
                await self._listen()
            except (psycopg.Error, StoreUnavailable, TimeoutError) as error:
                if self._hears:
                    pause_s = FIRST_PAUSE_S
                log.warning("what other servers publish is not heard at once", reason=" ".join(str(error).split()))
            finally:
                self._note(hears=False)
            await asyncio.sleep(jitter.uniform(0, pause_s))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _listen(self) -> None:
        """Listen until the connection fails; raise why."""
        import psycopg  # noqa: PLC0415 - as above

        info = connection_info(self._database.url)
        async with await psycopg.AsyncConnection.connect(info, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}".encode())
            await self._probe(connection)
            await self._make_up()
            while True:
                async for notify in connection.notifies(timeout=PROBE_INTERVAL_S):
                    self.take(notify.payload)
                await self._probe(connection)

    async def _probe(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Raise unless the connection answers in time; measure the database's clock."""
        before = now_us(self._clock)
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            [database_us] = await (await connection.execute(_NOW_US)).fetchone() or (before,)
        after = now_us(self._clock)
        if 0 <= after - before <= MAX_ROUND_TRIP_US:
            self._reports.ahead_us = database_us - (before + after) // 2

    async def _make_up(self) -> None:
        """Read again what is kept in memory, and find what was revoked."""
        self._catalog.begin_anew()
        self._fanout.announce({host.org for host in self._fanout.hosts})
        await self._sweep.once()
        self._note(hears=True)

    def _note(self, *, hears: bool) -> None:
        self._hears = hears
        self._metrics.hearing.set(int(hears))

    def take(self, payload: str) -> None:
        """Act on a notice, unless it is this server's own."""
        notice = read_notice(payload)
        if notice is None or notice.origin == self._database.origin:
            return
        if notice.kind is NoticeKind.ORGS:
            self._fanout.announce(notice.names)
        else:
            for key_id in notice.names:
                self._fanout.end_key(key_id)
