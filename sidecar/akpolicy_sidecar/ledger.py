"""What this host believes, keeps and enforces: the parts that every kind of update works on.

Rules:

- The judge says what is believed, the state directory what is kept, the enforcement what is enforced. They change in
  this order: believed after kept, enforced after believed; the kinds of updates say where they differ, and why.
- The time to judge by is proven time where there is proof. A wall clock that jumped ahead is good enough to judge a
  signed bundle by (it can only be refused for it), not to decide by.
- A host that could not load its newest root is `behind` until it has followed the chain to that root again, which must
  pass through it, unless the anchors are others now: they have the last word. Until then nothing but roots is taken.
- Documents that contradict each other are kept as evidence, both of them. That they cannot be kept is told, and changes
  nothing about the refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from akpolicy.clock import Moment
from akpolicy.errors import CacheError, ClockJump, RootRollback
from akpolicy.strict_json import load_object
from akpolicy.trust import Judge
from akpolicy.trusted_time import time_of
from akpolicy.wire import envelope_to_bytes

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import AkpolicyError
    from akpolicy.keys import AnchorSet
    from akpolicy.trust import VerifiedHeartbeat
    from akpolicy_sidecar.cache import StateDirectory
    from akpolicy_sidecar.enforcement import Enforcement
    from akpolicy_sidecar.state import Change


class CacheWatch(Protocol):
    """Is told when the state directory cannot be used, and when it can."""

    def cache_failed(self, error: AkpolicyError) -> None:
        """Note that it cannot be written or read."""

    def cache_works(self) -> None:
        """Note that it could be written."""


@dataclass(slots=True)
class Ledger:
    """The parts. One thread uses it at a time; only the snapshot behind `enforcement` is for all.

    `last_heartbeat` is the last one of this run. `vouchers` are the ids of all keys whose
    heartbeats still vouch.
    """

    org: str
    anchors: AnchorSet
    clock: Clock
    directory: StateDirectory
    enforcement: Enforcement
    watch: CacheWatch
    judge: Judge
    last_heartbeat: VerifiedHeartbeat | None = None
    vouchers: frozenset[str] = frozenset()

    # --- time ---------------------------------------------------------------------------------------------------------

    def moment(self) -> Moment:
        """Read the clocks, once for each document."""
        return Moment.read(self.clock)

    def time_at(self, moment: Moment) -> float:
        """Return the time to judge documents by; raise `ClockRollback`."""
        try:
            return time_of(self.enforcement.proof, moment)
        except ClockJump:
            return moment.wall

    def latest_time(self) -> float:
        """Return a time that is not before any at which something was accepted here."""
        moment, proof = self.moment(), self.enforcement.proof
        return moment.wall if proof is None else max(moment.wall, proof.least(moment))

    # --- roots --------------------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether an earlier run trusted a newer root than is trusted now."""
        kept, root = self.directory.root_state, self.judge.root
        return kept is not None and (root is None or root.document.version < kept.version)

    @property
    def has_other_anchors(self) -> bool:
        """Whether the kept roots were followed from other anchors than those that are configured now."""
        kept = self.directory.root_state
        return kept is not None and kept.anchors != self.anchors.digest

    def require_newest_root(self) -> None:
        """Raise `RootRollback` while this host is behind."""
        kept, root = self.directory.root_state, self.judge.root
        if kept is not None and root is not None and root.document.version < kept.version:
            msg = (
                f"root version {root.document.version} is older than version {kept.version}, which this host trusted; "
                "the roots between have to come first"
            )
            raise RootRollback(msg)

    def forget_root(self) -> None:
        """Trust no root any more; the marks stay."""
        self.judge = Judge(self.org, self.anchors, marks=self.judge.marks, heartbeat=self.judge.heartbeat)

    # --- disk ---------------------------------------------------------------------------------------------------------

    def commit(self, **changes: object) -> None:
        """Keep the state with these fields changed, whole; raise `CacheWriteFailed` with the old one kept."""
        self.directory.commit(self.directory.state.model_copy(update=changes))
        self.watch.cache_works()

    def keep(self, change: Change) -> None:
        """Keep what an update changes of the state; raise `CacheWriteFailed` with the old one kept."""
        self.directory.append(change)
        self.watch.cache_works()

    def keep_evidence(self, *documents: SignedEnvelope | None) -> None:
        """Keep documents that contradict each other, as far as that is possible."""
        for document in filter(None, documents):
            try:
                self.directory.put_evidence(envelope_to_bytes(document))
            except CacheError as error:
                self.watch.cache_failed(error)


def scope_of(envelope: SignedEnvelope) -> str:
    """Return the scope of a signed bundle or rollback whose payload has been read before."""
    return str(load_object(envelope.payload)["scope"])
