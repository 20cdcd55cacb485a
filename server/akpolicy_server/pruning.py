"""Old revisions go: once a day in a server that is told to, and by `akpolicy-server prune`.

Rules:

- Nothing goes unless the configuration says so: `[server.retention]`, by days. By default everything stays.
- What stays in any case: what any org's hosts are given, or were given last; the newest revision of each scope and
  epoch, from which versions count on; the newest bundle of each of the `contents` newest contents of a scope, which is
  the window that a rollback or the end of a freeze can return to (renewals do not shorten it); what a kept rollback
  restores; and what a host says it enforces or refuses.
- Roots and API keys stay: hosts follow the chain of all roots, and revisions name the keys that published them.
- A scope is a transaction: what a rollback is about to return to cannot go meanwhile.
- A retry with an idempotency key whose revision is gone would publish again; so nothing younger than `LEAST_DAYS` goes.
- Space in SQLite's file is used again and not given back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import StoreUnavailable
from akpolicy_server.first_root import DAY_S
from akpolicy_server.store.retention import outlived, remove_revisions, scopes_with_older
from akpolicy_server.times import MICROSECONDS, now_us

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_server.settings_retention import RetentionSection
    from akpolicy_server.store.engine import Database
    from akpolicy_server.threads import Threads

LEAST_DAYS: Final = 1
INTERVAL_S: Final = float(DAY_S)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many revisions went, of how many scopes, and how many bytes of content with them."""

    revisions: int
    scopes: int
    content_bytes: int


class Pruning:
    """Removes what is outlived. Thread-safe; blocks."""

    def __init__(self, database: Database, retention: RetentionSection, clock: Clock) -> None:
        self._database = database
        self._retention = retention
        self._clock = clock

    async def run(self, threads: Threads) -> None:
        """Prune now and every day, until cancelled; for ever nothing if everything stays."""
        while True:
            if self._retention.days:
                try:
                    await threads.policies(self.once)
                except StoreUnavailable as error:
                    log.warning("old revisions stay for now", reason=error.message)
            await asyncio.sleep(INTERVAL_S)

    def once(self, *, dry_run: bool = False) -> Pruned:
        """Prune, or only count; raise `StoreUnavailable`. Nothing goes where the configuration keeps everything."""
        if not self._retention.days:
            return Pruned(0, 0, 0)
        before_us = now_us(self._clock) - max(LEAST_DAYS, self._retention.days) * DAY_S * MICROSECONDS
        with self._database.read() as connection:
            scopes = scopes_with_older(connection, before_us)
        gone = [count for scope in scopes if (count := self._prune(scope, before_us, dry_run=dry_run))[0]]
        pruned = Pruned(sum(count for count, _ in gone), len(gone), sum(size for _, size in gone))
        if pruned.revisions and not dry_run:
            log.info("old revisions are gone", revisions=pruned.revisions, scopes=pruned.scopes)
        return pruned

    def _prune(self, scope: str, before_us: int, *, dry_run: bool) -> tuple[int, int]:
        with self._database.write(keep=not dry_run) as connection:
            going = outlived(connection, scope, before_us=before_us, contents=self._retention.contents)
            return len(going.serials), remove_revisions(connection, going)
