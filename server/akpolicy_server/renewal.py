"""Renewal: bundles that go on being current are signed anew before they expire.

Rules:

- What hosts get and is past half of its life is published again: same content, same offline floor, the lifetime that
  was meant for it. How far back a rollback may go stays as it is. A rollback is renewed as a bundle.
- One that has expired already is renewed too: its hosts deny until they get something, and this is what they had.
- What this server cannot sign is logged once and left: the metric of the earliest expiry shows it. One that would not
  live longer than the current one is not worth a version. None of these keeps the others from being renewed.
- Every renewal is a transaction of its own and looks again whether the revision is current still.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import AkpolicyError, StoreUnavailable
from akpolicy.scope import GLOBAL, org_of
from akpolicy_server.audience import member_for
from akpolicy_server.drafts import BundleDraft, renewal_of
from akpolicy_server.store.layers import layers_past_half_life
from akpolicy_server.store.revisions import RevisionRecord, current_revision, read_content

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy_server.ledger import Ledger
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.store.engine import Database
    from akpolicy_server.threads import Threads

RENEWAL_INTERVAL_S: Final = 60.0

log = structlog.get_logger(__name__)


class Renewal:
    """Renews what is due, at once and then every `interval_s` seconds."""

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        threads: Threads,
        clock: Clock,
        metrics: ServerMetrics,
        *,
        interval_s: float = RENEWAL_INTERVAL_S,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._threads = threads
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_s
        self._said: set[int] = set()

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            try:
                await self._threads.signing(self.once)
            except StoreUnavailable as error:
                log.warning("renewal is put off", reason=error.message)
            await asyncio.sleep(self._interval_s)

    def once(self) -> None:
        """Renew everything that is due; raise `StoreUnavailable`. Blocks."""
        now = int(self._clock.now())
        with self._database.read() as connection:
            due = [r for r in layers_past_half_life(connection, now) if _is_newest(connection, r)]
            hindered = {r.serial: self._hindrance(connection, r, now) for r in due if r.scope != GLOBAL}
        for revision in due:
            error = hindered.get(revision.serial) or self._renew(revision)
            if error is not None:
                self._say(revision, error)
        self._said &= {revision.serial for revision in due}

    def _hindrance(self, connection: Connection, revision: RevisionRecord, now: int) -> AkpolicyError | None:
        """Return why an org's bundle cannot be renewed, if that can be told without making others wait."""
        try:
            member = member_for(connection, org_of(revision.scope) or "", revision.scope)
            member.judge.check_root(now)
            self._ledger.quorum(_draft(connection, revision), member, now)
        except StoreUnavailable:
            raise
        except AkpolicyError as error:
            return error
        return None

    def _renew(self, revision: RevisionRecord) -> AkpolicyError | None:
        """Renew a revision unless it is superseded; return why it cannot be."""
        try:
            with self._ledger.change(None) as change:
                if not _is_newest(change.connection, revision):
                    return None
                draft = _draft(change.connection, revision)
                # An org has one epoch: if its root's was raised meanwhile, that is where it goes.
                epochs = {revision.epoch} if revision.scope == GLOBAL else None
                renewed = self._ledger.commit(change, draft, epochs=epochs)
        except StoreUnavailable:
            raise
        except AkpolicyError as error:
            return error
        self._metrics.renewals.labels(outcome="renewed").inc()
        log.info("renewed", scope=renewed.scope, version=renewed.version, expires_at=renewed.expires_at)
        return None

    def _say(self, revision: RevisionRecord, error: AkpolicyError) -> None:
        if revision.serial in self._said:
            return
        self._said.add(revision.serial)
        self._metrics.renewals.labels(outcome="refused").inc()
        log.warning(
            "cannot renew what expires",
            scope=revision.scope,
            version=revision.version,
            expires_at=revision.expires_at,
            code=error.code,
            reason=error.message,
        )


def _is_newest(connection: Connection, revision: RevisionRecord) -> bool:
    current = current_revision(connection, revision.scope, revision.epoch)
    return current is not None and current.serial == revision.serial


def _draft(connection: Connection, revision: RevisionRecord) -> BundleDraft:
    return renewal_of(revision, lambda: read_content(connection, revision), must_outlive=revision.expires_at)
