"""Heartbeats from the server: what is current, and what time it is.

Rules:

- A heartbeat never changes what is enforced; it says for which of it the server vouches, and until when.
- It is kept on disk, and believed even where it cannot be: after a restart, policy is then as old as it was before.
- One that answers a nonce of ours is judged by the least time that it can be now, and so ends a jump of the clock and
  the doubt after a reboot. But it says what time it was when it was signed: one that comes more than
  `MAX_ANSWER_DELAY_S` after the question may have been held back, and is stale.
- Only signed documents that contradict each other are evidence. The text of an index is not signed: whoever passes it
  on can spoil it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy.errors import CacheError, ClockJump, Equivocation, HeartbeatStale
from akpolicy.heartbeat import Heartbeat
from akpolicy.limits import MAX_ANSWER_DELAY_S
from akpolicy.strict_json import load
from akpolicy.trusted_time import proven, time_of
from akpolicy_sidecar.state import Change, FreshnessState, HeartbeatState, TimeState

if TYPE_CHECKING:
    from akpolicy.clock import Moment
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.index import IndexChanges
    from akpolicy.trust import VerifiedHeartbeat
    from akpolicy_sidecar.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Question:
    """A nonce (hex) that the next heartbeat must answer, and when it was sent, in seconds since boot."""

    nonce: str
    asked_at: float


class HeartbeatUpdates:
    """Applies heartbeats."""

    def __init__(self, ledger: Ledger) -> None:
        """Work on `ledger`."""
        self._ledger = ledger

    def apply(self, envelope: SignedEnvelope, index: bytes | IndexChanges | None, question: Question | None) -> None:
        """Judge a heartbeat, keep and believe what it says; `question` is what it must answer, if anything.

        Raises the `TrustError` that says why not.
        """
        enforcement = self._ledger.enforcement
        moment = self._ledger.moment()
        verified = self._judged(envelope, index, question, moment)
        issued_at = verified.document.issued_at
        proof = proven(enforcement.proof, issued_at, moment, fresh=question is not None)
        vouching = enforcement.vouching
        freshness, differing = vouching.renewed(verified.document, verified.index)
        vouchers = self._ledger.vouchers | set(verified.keys)
        kept = HeartbeatState(
            epoch=verified.mark.epoch,
            seq=verified.mark.seq,
            issued_at=verified.mark.issued_at,
            index_digest=verified.mark.index_digest,
            keys=sorted(vouchers),
        )
        try:
            self._ledger.keep(
                Change(
                    heartbeat=kept,
                    time=TimeState.of(proof),
                    freshness=FreshnessState.of(freshness, vouching.unconfirmed),
                )
            )
        except CacheError as error:
            self._ledger.watch.cache_failed(error)
        self._ledger.judge.accept_heartbeat(verified)
        self._ledger.last_heartbeat, self._ledger.vouchers = verified, vouchers
        enforcement.proof = proof
        vouching.believe(verified.document, verified.index, freshness, differing)
        enforcement.swap()

    def _judged(
        self, envelope: SignedEnvelope, index: bytes | IndexChanges | None, question: Question | None, moment: Moment
    ) -> VerifiedHeartbeat:
        self._ledger.require_newest_root()
        now, latest = self._times(question, moment)
        nonce = question.nonce if question is not None else None
        try:
            return self._ledger.judge.judge_heartbeat(envelope, index, now, nonce=nonce, latest=latest)
        except Equivocation:
            last = self._ledger.last_heartbeat
            if self._contradicts(load(envelope.payload, Heartbeat)):
                self._ledger.keep_evidence(envelope, last.envelope if last else None)
            raise

    def _times(self, question: Question | None, moment: Moment) -> tuple[float, float]:
        """Return the times that it is at least and at most; raise `ClockRollback`, `ClockJump` or `HeartbeatStale`."""
        proof = self._ledger.enforcement.proof
        if question is None:
            now = time_of(proof, moment)
            return now, now
        delay = moment.elapsed - question.asked_at
        if delay > MAX_ANSWER_DELAY_S:
            msg = f"the answer to this connection's nonce came after {delay:.0f} seconds; a new connection asks again"
            raise HeartbeatStale(msg)
        if proof is None:
            return moment.wall, moment.wall
        with suppress(ClockJump):
            proof.now(moment)
        least = proof.least(moment)
        return least, max(moment.wall, least)

    def _contradicts(self, heartbeat: Heartbeat) -> bool:
        """Whether a signed heartbeat contradicts another signed document."""
        root, mark = self._ledger.judge.root, self._ledger.judge.heartbeat
        other_root = root is not None and heartbeat.root.digest != root.digest
        return other_root or (
            mark is not None and heartbeat.seq == mark.seq and heartbeat.index.digest != mark.index_digest
        )
