"""The safety net under announcements: look regularly, so that nothing is missed for good.

Rules:

- Once an interval, one read of the database finds orgs that changed without an announcement here (another process
  published, or an announcement was lost), by their generation, and open streams whose API key was revoked or whose host
  is refused by its id.
- While the database does not answer nothing is concluded, and the next round tries again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy_server.denied_hosts import denied_among
from akpolicy_server.store.api_keys import revoked_among
from akpolicy_server.store.batches import batches
from akpolicy_server.store.layers import generations_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from akpolicy_server.catalog import Catalog
    from akpolicy_server.fanout import Fanout
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.hosts import HostKey
    from akpolicy_server.threads import Threads

log = structlog.get_logger(__name__)


class Sweep:
    """Compares what this process believes with what is stored."""

    def __init__(
        self, database: Database, threads: Threads, catalog: Catalog, fanout: Fanout, *, interval_s: float
    ) -> None:
        self._database = database
        self._threads = threads
        self._catalog = catalog
        self._fanout = fanout
        self._interval_s = interval_s

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.once()
            except StoreUnavailable as error:
                log.warning("sweep failed", reason=error.message)

    async def once(self) -> None:
        """Announce what changed, end what is revoked; raise `StoreUnavailable`."""
        known, key_ids, hosts = self._catalog.known(), self._fanout.key_ids, self._fanout.hosts
        changed, revoked, denied = await self._threads.database(self._look, known, key_ids, hosts)
        if changed:
            self._fanout.announce(changed)
        for key_id in revoked:
            self._fanout.end_key(key_id)
        for host in denied:
            self._fanout.end_host(host)

    def _look(
        self, known: Mapping[str, int], key_ids: Sequence[str], hosts: Collection[HostKey]
    ) -> tuple[list[str], set[str], set[HostKey]]:
        stored = dict[str, int]()
        revoked = set[str]()
        with self._database.read() as connection:
            for some in batches(known):
                stored |= generations_of(connection, some)
            for some in batches(key_ids):
                revoked |= revoked_among(connection, some)
            denied = denied_among(connection, hosts)
        return [org for org, seq in known.items() if stored.get(org) != seq], revoked, denied
