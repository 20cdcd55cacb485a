"""The safety net under announcements: look regularly, so that nothing is missed for good.

Rules:

- Once an interval, one read of the database finds scopes that changed without an announcement here (another process
  published, or an announcement was lost) and open streams whose API key was revoked.
- While the database does not answer nothing is concluded, and the next round tries again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy_server.store.api_keys import revoked_among
from akpolicy_server.store.revisions import current_digests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from akpolicy_server.catalog import Catalog
    from akpolicy_server.fanout import Fanout
    from akpolicy_server.store.engine import Database
    from akpolicy_server.store.revisions import RevisionRecord
    from akpolicy_server.threads import Threads

# SQLite takes 32,766 parameters a statement, older ones 999.
KEYS_A_QUERY: Final = 500

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
        known, key_ids = self._catalog.known(), self._fanout.key_ids
        changed, revoked = await self._threads.database(self._look, known, key_ids)
        for scope in changed:
            self._fanout.announce(scope)
        for key_id in revoked:
            self._fanout.end_key(key_id)

    def _look(self, known: Mapping[str, RevisionRecord | None], key_ids: Sequence[str]) -> tuple[list[str], set[str]]:
        with self._database.read() as connection:
            stored = current_digests(connection, known)
            revoked = set[str]()
            for some in _batches(key_ids):
                revoked |= revoked_among(connection, some)
        believed = {scope: revision.digest if revision else None for scope, revision in known.items()}
        return [scope for scope in known if stored[scope] != believed[scope]], revoked


def _batches(key_ids: Sequence[str]) -> list[Sequence[str]]:
    return [key_ids[start : start + KEYS_A_QUERY] for start in range(0, len(key_ids), KEYS_A_QUERY)]
