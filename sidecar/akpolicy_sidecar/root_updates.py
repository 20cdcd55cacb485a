"""Roots from the server: followed one by one, kept, and everything enforced judged anew by each.

Rules:

- A root is kept before it is believed; but it is believed even if it cannot be kept, because a revocation must not wait
  for a disk. It is then asked for again, and kept before any that comes after it: a chain on disk has no gap.
- The chain on disk begins with the first root that was believed; what came before is of no use to a restart.
- What a believed root does not stand behind any more is dropped at once, in every offline mode: its scope is missing
  and everything is denied until the server delivers it again. The mark stays.
- What was only signed by other keys than the root names now, none of them revoked, is let go: the server sends what the
  new keys signed behind the root. It decides until then, to the end of what the server sends (`settle`), and no longer
  than `ROTATION_GRACE_S`; then it is dropped. So a rotation of keys denies nothing.
- Once a key is revoked that has signed a heartbeat, nothing is vouched for until the next one: which heartbeat has
  confirmed what is not kept.
- Roots that come before the first one that the anchors signed are passed over; if none is left, that is an error
  (`end`). Only the newest root's expiry matters, so it is looked at when no more roots come.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from akpolicy.errors import (
    CacheError,
    Equivocation,
    KeyNotAuthorised,
    RootChainGap,
    RootRollback,
    RootUnanchored,
    ThresholdNotMet,
    UnknownKey,
)
from akpolicy.trust import refuse_ungranted
from akpolicy.wire import envelope_to_bytes
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED
from akpolicy_sidecar.state import FreshnessState, RootState
from akpolicy_sidecar.updates import REFUSALS, AcceptedRoot, Outcome, Trouble

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import TrustError
    from akpolicy.root import Root
    from akpolicy.trust import TrustedRoot
    from akpolicy_sidecar.layers import Enforced
    from akpolicy_sidecar.ledger import Ledger

# How long what a root's successor is on the way for decides on. The server sends it in the same breath.
ROTATION_GRACE_S: Final = 5.0


class RootUpdates:
    """Applies roots."""

    def __init__(self, ledger: Ledger) -> None:
        """Work on `ledger`."""
        self._ledger = ledger
        self._unanchored: RootUnanchored | None = None
        # The version of the first root that was believed, if it came from the server.
        self._first: int | None = None
        # Believed and not on disk, oldest first, by digest.
        self._unkept: dict[str, TrustedRoot] = {}
        # Why each scope was let go.
        self._let_go: dict[str, TrustError] = {}

    def begin(self) -> None:
        """Let a connection's roots come."""
        self._unanchored = None
        self._ledger.judge.begin_walk()

    def apply(self, envelope: SignedEnvelope) -> AcceptedRoot:
        """Judge a root, keep it, believe it; raise the `TrustError` that says why not."""
        judge = self._ledger.judge
        before = judge.root
        unkept = self._unkept.get(envelope.digest().hex())
        if unkept is not None:
            return AcceptedRoot(Outcome.UNCHANGED, unkept.document.version, not_kept=self._keep(unkept))
        try:
            root = judge.judge_root(envelope, self._ledger.time_at(self._ledger.moment()))
            self._check_kept_one(root)
        except RootUnanchored as error:
            self._unanchored = error
            return AcceptedRoot(Outcome.PASSED_OVER, 0)
        except Equivocation:
            self._ledger.keep_evidence(envelope, before.envelope if before else None)
            raise
        if before is None:
            self._first = root.document.version
        not_kept = self._keep(root)
        if before is not None and root.digest == before.digest:
            return AcceptedRoot(Outcome.UNCHANGED, root.document.version, not_kept=not_kept)
        judge.accept_root(root)
        return AcceptedRoot(Outcome.APPLIED, root.document.version, self._judge_anew(root), not_kept)

    def end(self) -> None:
        """Note that no more roots come.

        Raises `RootUnanchored` if the anchors signed none of them, `RootRollback` if they did not lead to the root that
        was trusted before, `RootExpired` if the newest one has expired, `ClockRollback` if nobody can tell. Where none
        is trusted because each was refused, that was said of each.
        """
        unanchored, self._unanchored = self._unanchored, None
        if self._ledger.judge.root is None:
            if unanchored is not None:
                raise unanchored
            return
        try:
            self._ledger.require_newest_root()
        except RootRollback:
            self._ledger.forget_root()
            self._unkept.clear()
            raise
        self._ledger.judge.check_root(self._ledger.time_at(self._ledger.moment()))

    def settle(self) -> tuple[Trouble, ...]:
        """Drop what was let go and has no successor, because nothing more is on the way; return it with the reasons."""
        let_go, self._let_go = self._let_go, {}
        enforcement = self._ledger.enforcement
        dropped = tuple(Trouble(scope, let_go[scope]) for scope in sorted(enforcement.leaving))
        for trouble in dropped:
            enforcement.drop(trouble.subject)
        if dropped:
            enforcement.swap()
        return dropped

    def _check_kept_one(self, root: TrustedRoot) -> None:
        """Raise why a root does not lead from the one that an earlier run trusted and that cannot be loaded."""
        kept, version = self._ledger.directory.root_state, root.document.version
        if kept is None or (self._ledger.judge.root is not None and version != kept.version):
            return
        if version == kept.version and root.digest != kept.digest:
            msg = f"another root with version {kept.version} than the one that this host trusted before"
            raise Equivocation(msg)
        if version > kept.version and not self._ledger.has_other_anchors:
            msg = (
                f"root version {version} does not come from version {kept.version}, which this host trusted; "
                "the roots between have to come first"
            )
            raise RootChainGap(msg)

    def _keep(self, root: TrustedRoot) -> CacheError | None:
        """Write the root behind those that could not be written; return why that cannot be done."""
        self._unkept[root.digest] = root
        try:
            for digest, unkept in list(self._unkept.items()):
                self._write(unkept)
                del self._unkept[digest]
        except CacheError as error:
            return error
        return None

    def _write(self, root: TrustedRoot) -> None:
        """Write the root, and what the state says of roots."""
        directory, version = self._ledger.directory, root.document.version
        kept = directory.root_state
        state = RootState(first=version, version=version, digest=root.digest, anchors=self._ledger.anchors.digest)
        if kept is not None:
            newest = state if version >= kept.version else kept
            first = kept.first if self._first is None else self._first
            state = newest.model_copy(update={"first": first, "anchors": state.anchors})
        directory.put_root(version, envelope_to_bytes(root.envelope))
        if state != kept:
            self._ledger.commit(root=state)

    def _judge_anew(self, root: TrustedRoot) -> tuple[Trouble, ...]:
        """Drop, or let go, what the root does not stand behind; return what was dropped with the reasons."""
        enforcement, now = self._ledger.enforcement, self._ledger.latest_time()
        dropped = []
        for scope, entry in (*enforcement, *enforcement.leaving.items()):
            try:
                still = self._still_enforced(entry, root, now)
            except REFUSALS as error:
                enforcement.drop(scope)
                dropped.append(Trouble(scope, error))
                continue
            if still is not None:
                enforcement.put(scope, still)
        if not root.document.revoked.keys().isdisjoint(self._ledger.vouchers):
            self._forget_heartbeats()
        enforcement.swap()
        return tuple(dropped)

    def _still_enforced(self, entry: Enforced, root: TrustedRoot, now: float) -> Enforced | None:
        """Return what is enforced, as the root has it; None if it was let go. Raises why it must be dropped."""
        try:
            verified = self._ledger.judge.judge_manifest(entry.envelope, now, held=True, original=entry.original)
        except (UnknownKey, KeyNotAuthorised, ThresholdNotMet) as error:
            if not _is_rotation(entry, root.document):
                raise
            self._release(entry.bundle.scope, error)
            return None
        refuse_ungranted(verified, entry.permits)
        if entry.layer is None:
            return entry
        expires_at = min(verified.manifest.expires_at, root.document.expires_at)
        return replace(entry, layer=replace(entry.layer, expires_at=expires_at))

    def _release(self, scope: str, error: TrustError) -> None:
        """Let a scope go, unless an earlier root has done so."""
        enforcement = self._ledger.enforcement
        if scope not in enforcement.leaving:
            enforcement.let_go(scope, self._ledger.moment().elapsed + ROTATION_GRACE_S)
            self._let_go[scope] = error

    def _forget_heartbeats(self) -> None:
        self._ledger.enforcement.vouching.begin(NOTHING_CONFIRMED, ())
        self._ledger.last_heartbeat, self._ledger.vouchers = None, frozenset()
        try:
            self._ledger.commit(freshness=FreshnessState())
        except CacheError as error:
            # A restart comes to the same: it looks at who vouched, too.
            self._ledger.watch.cache_failed(error)


def _is_rotation(entry: Enforced, root: Root) -> bool:
    """Whether the root lets other keys sign for the scope, and has revoked none of those that did."""
    scope, original = entry.bundle.scope, entry.original
    if root.bundle_role(scope) is None or (original is not None and root.rollback_role(scope) is None):
        return False
    documents = [entry.envelope] if original is None else [entry.envelope, original]
    return not any(signature.key_id in root.revoked for document in documents for signature in document.signatures)
