"""Heartbeats: what is current for an org, signed again and again.

Rules:

- The first heartbeat of a stream answers the host's nonce and is signed for it alone (`fresh`). Later ones are the same
  for all hosts of the org (`shared`): one is signed when the generation rises, and again after a third of its life.
- A heartbeat names a view and goes only to streams that were sent that view: for an older one there is none.
- Times are whole seconds: in the second of the last one there is no new one of the same generation.
- Each is judged as hosts judge it before it goes out; under an expired root none is made.
- Signing runs on a thread, because a key service may be slow. If it fails, streams go on without heartbeats, which is
  logged once and counted; it is tried again after `RETRY_S`.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import AkpolicyError
from akpolicy.heartbeat import Heartbeat, IndexReference, RootReference
from akpolicy.keys import AnchorSet
from akpolicy.signing import sign_document
from akpolicy.trust import Judge
from akpolicy_server.signatory import heartbeats_of

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_server.metrics import ServerMetrics
    from akpolicy_server.signatory import Signatory
    from akpolicy_server.threads import Threads
    from akpolicy_server.views import OrgView

# How much of its life a heartbeat has behind it when the next one goes out.
RENEWED_AFTER: Final = 1 / 3
RETRY_S: Final = 5.0

log = structlog.get_logger(__name__)


class Moment(NamedTuple):
    """What hosts compare of two heartbeats: the generation, then the second. All that a stream keeps of one."""

    seq: int
    issued_at: int


@dataclass(frozen=True, slots=True)
class SignedHeartbeat:
    """A heartbeat that hosts will believe. Times are in epoch seconds."""

    seq: int
    issued_at: int
    expires_at: int
    envelope: SignedEnvelope

    @property
    def moment(self) -> Moment:
        """What hosts compare."""
        return Moment(self.seq, self.issued_at)

    def is_later(self, than: SignedHeartbeat | Moment | None) -> bool:
        """Whether a host that accepted `than` takes this one."""
        return than is None or self.moment > (than.seq, than.issued_at)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an org gets no heartbeats, and since when (seconds of `Clock.elapsed`)."""

    reason: str
    at: float


class Pulse:
    """Signs the heartbeats of every org; `lifetime_s` is how long one lives."""

    def __init__(
        self, signatory: Signatory, threads: Threads, clock: Clock, metrics: ServerMetrics, *, lifetime_s: int
    ) -> None:
        self._signatory = signatory
        self._threads = threads
        self._clock = clock
        self._metrics = metrics
        self._lifetime_s = lifetime_s
        self._shared: dict[str, SignedHeartbeat] = {}
        self._signing: dict[tuple[str, int], asyncio.Task[SignedHeartbeat | None]] = {}
        self._failures: dict[str, _Failure] = {}

    @property
    def interval_s(self) -> float:
        """How long a stream waits between heartbeats, in seconds."""
        return self._lifetime_s * RENEWED_AFTER

    def fresh(self, view: OrgView, nonce: bytes) -> asyncio.Future[SignedHeartbeat | None]:
        """Begin to sign a heartbeat that answers a nonce; None comes if none can be signed now."""
        return asyncio.create_task(self._sign(view, nonce.hex()))

    def shared(self, view: OrgView) -> asyncio.Future[SignedHeartbeat | None]:
        """Return the heartbeat for all streams that have this view, done if it is at hand; None if there is none now.

        It may be cancelled: others that wait for the same one are not concerned.
        """
        last = self._shared.get(view.org)
        if last is not None and (last.seq > view.seq or (last.seq == view.seq and not self._is_due(last))):
            return _done(last if last.seq == view.seq else None)
        key = (view.org, view.seq)
        if key not in self._signing:
            self._signing[key] = asyncio.create_task(self._renew(view))
            self._signing[key].add_done_callback(lambda _: self._signing.pop(key))
        return asyncio.shield(self._signing[key])

    def _is_due(self, last: SignedHeartbeat) -> bool:
        now = self._clock.now()
        # Below zero: the clock was set back, and what it said before is worth nothing.
        return int(now) != last.issued_at and not 0 <= now - last.issued_at < self.interval_s

    async def _renew(self, view: OrgView) -> SignedHeartbeat | None:
        made = await self._sign(view, None)
        last = self._shared.get(view.org)
        if made is None:
            is_alive = last is not None and last.seq == view.seq and self._clock.now() < last.expires_at
            return last if is_alive else None
        if last is None or last.seq <= made.seq:
            self._shared[view.org] = made
        return made

    async def _sign(self, view: OrgView, nonce: str | None) -> SignedHeartbeat | None:
        failure = self._failures.get(view.org)
        if failure is not None and self._clock.elapsed() - failure.at < RETRY_S:
            return None
        try:
            made = await self._threads.signing(self._make, view, nonce)
        except AkpolicyError as error:
            self._fail(view.org, error, failure)
            return None
        self._metrics.heartbeats_signed.inc()
        if self._failures.pop(view.org, None) is not None:
            log.info("heartbeats go on", org=view.org)
        return made

    def _fail(self, org: str, error: AkpolicyError, before: _Failure | None) -> None:
        self._metrics.heartbeat_failures.inc()
        if before is None or before.reason != error.message:
            log.warning("hosts of an org get no heartbeats", org=org, code=error.code, reason=error.message)
        self._failures[org] = _Failure(error.message, self._clock.elapsed())

    def _make(self, view: OrgView, nonce: str | None) -> SignedHeartbeat:
        """Sign a heartbeat; raise a `TrustError`, `SignersMissing` or `SignerError`. Blocks."""
        now = int(self._clock.now())
        judge = Judge(view.org, AnchorSet(()))
        judge.accept_root(view.root)
        root = judge.check_root(now).document
        quorum = self._signatory.quorum(root, root.roles.heartbeat, heartbeats_of(view.org), now)
        heartbeat = Heartbeat(
            type="heartbeat",
            spec=1,
            org=view.org,
            seq=view.seq,
            issued_at=now,
            expires_at=min(now + self._lifetime_s, quorum.ends_at),
            root=RootReference(version=root.version, digest=view.root.digest),
            index=IndexReference(digest=view.index.digest, size=len(view.index.text)),
            nonce=nonce,
        )
        envelope = sign_document(PayloadType.HEARTBEAT, heartbeat.to_bytes(), list(quorum.signers))
        judge.judge_heartbeat(envelope, view.index, now, nonce=nonce)
        return SignedHeartbeat(view.seq, now, heartbeat.expires_at, envelope)


def _done(beat: SignedHeartbeat | None) -> asyncio.Future[SignedHeartbeat | None]:
    future: asyncio.Future[SignedHeartbeat | None] = asyncio.get_running_loop().create_future()
    future.set_result(beat)
    return future
