"""From signed documents to what is enforced: one face for the session, one for each kind of document behind it.

Pure domain: no gRPC, no clock but the one handed in. One thread calls this at a time: the program's start, then the
watcher. What is enforced is swapped as one snapshot, which any thread may read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import CacheError, RootMissing
from akpolicy.scope import GLOBAL, is_member_scope
from akpolicy.trust import Judge
from akpolicy_sidecar.bundle_updates import BundleUpdates
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED
from akpolicy_sidecar.heartbeat_updates import HeartbeatUpdates
from akpolicy_sidecar.layers import ENGINE
from akpolicy_sidecar.ledger import Ledger
from akpolicy_sidecar.loading import Loader
from akpolicy_sidecar.root_updates import RootUpdates
from akpolicy_sidecar.updates import REFUSALS, Holdings, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.bundle import ContentReference
    from akpolicy.clock import Clock
    from akpolicy.decision import BundleVersion
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.index import IndexChanges
    from akpolicy.keys import AnchorSet
    from akpolicy.root import Root
    from akpolicy.trust import TrustedRoot
    from akpolicy_sidecar.bundle_updates import ContentSource
    from akpolicy_sidecar.cache import StateDirectory
    from akpolicy_sidecar.enforcement import Enforcement, Revisions
    from akpolicy_sidecar.heartbeat_updates import Question
    from akpolicy_sidecar.layers import LayerBuilder
    from akpolicy_sidecar.ledger import CacheWatch
    from akpolicy_sidecar.state import ScopeState, State
    from akpolicy_sidecar.updates import Accepted, AcceptedRoot


class Updater:
    """Applies documents, and is the only one to change what is enforced."""

    def __init__(
        self,
        *,
        org: str,
        anchors: AnchorSet,
        directory: StateDirectory,
        builder: LayerBuilder,
        clock: Clock,
        enforcement: Enforcement,
        watch: CacheWatch,
    ) -> None:
        """Begin without policy."""
        self._ledger = Ledger(org, anchors, clock, directory, enforcement, watch, Judge(org, anchors))
        self._builder = builder
        self._roots = RootUpdates(self._ledger)
        self._bundles = BundleUpdates(self._ledger, builder)
        self._heartbeats = HeartbeatUpdates(self._ledger)

    # --- what is held -------------------------------------------------------------------------------------------------

    @property
    def holdings(self) -> Holdings:
        """What to tell the server that this host has."""
        index = self._ledger.judge.index
        return Holdings(
            self.root_version,
            self.revisions,
            tuple(sorted(self._bundles.held_blobs)),
            index.digest if index else "",
        )

    @property
    def revisions(self) -> tuple[BundleVersion, ...]:
        """What is enforced, in the order of the scopes. Safe to read from any thread."""
        return tuple(bundle for _, bundle in sorted(self.enforced.items()))

    @property
    def enforced(self) -> Revisions:
        """What is enforced, by scope. Safe to read from any thread; to read it takes no look at it."""
        return self._ledger.enforcement.revisions

    @property
    def enforces_index(self) -> bool:
        """Whether what the last index names is enforced, and nothing else."""
        index = self._ledger.judge.index
        return index is not None and not self.lacking and len(index.lines) == len(self.enforced)

    @property
    def root_version(self) -> int:
        """The newest root that is trusted and kept; 0 for none. Safe to read from any thread."""
        kept = self._ledger.directory.root_state
        # A root that is trusted and not on disk is asked for again.
        return kept.version if kept and self._ledger.judge.root and not self._ledger.is_behind else 0

    @property
    def root(self) -> Root | None:
        """The trusted root, if there is one. Safe to read from any thread."""
        root = self._ledger.judge.root
        return root.document if root else None

    @property
    def evidence_count(self) -> int:
        """How many documents are kept because they contradict others. Safe to ask from any thread."""
        return self._ledger.directory.evidence_count

    @property
    def lacking(self) -> tuple[str, ...]:
        """The scopes of which the server has vouched for another document than is enforced."""
        return self._bundles.lacking

    def concerns(self, scope: str) -> bool:
        """Whether the scope is one of those that this sidecar enforces."""
        return self._bundles.concerns(scope)

    def held_content(self, reference: ContentReference) -> bytes:
        """Return content from the cache; raise a `CacheError`, after which it is no longer said to be held."""
        return self._bundles.held_content(reference.digest)

    # --- updates ------------------------------------------------------------------------------------------------------

    def begin_roots(self) -> None:
        """Let a connection's roots come."""
        self._roots.begin()

    def apply_root(self, envelope: SignedEnvelope) -> AcceptedRoot:
        """Follow a root, as `RootUpdates.apply`."""
        return self._roots.apply(envelope)

    def end_roots(self) -> None:
        """Note that no more roots come, as `RootUpdates.end`."""
        self._roots.end()

    def settle(self) -> tuple[Trouble, ...]:
        """Note that nothing more is on the way behind a root, as `RootUpdates.settle`."""
        return self._roots.settle()

    def apply_bundle(
        self, envelope: SignedEnvelope, content: ContentSource, *, original: SignedEnvelope | None = None
    ) -> Accepted:
        """Make a bundle or rollback take effect, as `BundleUpdates.apply`."""
        return self._bundles.apply(envelope, original, content)

    def apply_heartbeat(
        self, envelope: SignedEnvelope, index: bytes | IndexChanges | None, question: Question | None
    ) -> None:
        """Believe a heartbeat, as `HeartbeatUpdates.apply`."""
        self._heartbeats.apply(envelope, index, question)

    # --- start --------------------------------------------------------------------------------------------------------

    def load_from_cache(self) -> tuple[Trouble, ...]:
        """Enforce what the state directory names, and return what of it cannot be.

        Raises `StateDirUnusable` if the directory is another org's.
        """
        ledger, enforcement = self._ledger, self._ledger.enforcement
        troubles: list[Trouble] = []
        try:
            state = ledger.directory.load()
        except CacheError as error:
            troubles.append(Trouble("state", error))
            state = ledger.directory.state
        marks = {scope: kept.mark for scope, kept in state.scopes.items()}
        heartbeat = state.heartbeat.mark if state.heartbeat else None
        ledger.judge = Judge(ledger.org, ledger.anchors, marks=marks, heartbeat=heartbeat)
        enforcement.proof = state.time.proof if state.time else None
        enforcement.vouching.begin(state.freshness.freshness(state.scopes), state.freshness.unconfirmed)
        ledger.vouchers = frozenset(state.heartbeat.keys if state.heartbeat else ())
        troubles += self._load_documents(state)
        enforcement.swap()
        return tuple(troubles)

    def _load_documents(self, state: State) -> list[Trouble]:
        ledger, enforcement = self._ledger, self._ledger.enforcement
        loader = Loader(ledger.directory, ledger.judge, self._builder)
        now = ledger.latest_time()
        troubles: list[Trouble] = []
        root: TrustedRoot | None = None
        try:
            root = loader.roots(state.root, now) if state.root else None
        except REFUSALS as error:
            troubles.append(Trouble("root", error))
            ledger.forget_root()
        if root is not None and not root.document.revoked.keys().isdisjoint(ledger.vouchers):
            enforcement.vouching.begin(NOTHING_CONFIRMED, ())
            ledger.vouchers = frozenset()
        proven = dict(state.scopes)
        lost: list[Trouble] = []
        for scope, kept in _schema_first(state.scopes):
            if kept.blob and loader.has_blob(kept.blob):
                self._bundles.note_blob(kept.blob)
            try:
                enforcement.put(scope, loader.scope(scope, kept, _require(root), now))
                proven[scope] = kept.model_copy(update={"engine": ENGINE})
            except REFUSALS as error:
                enforcement.drop(scope)
                lost.append(Trouble(scope, error))
        troubles += sorted(lost, key=lambda trouble: trouble.subject)
        enforcement.schema = self._builder.schema
        found: dict[str, object] = {"scopes": proven}
        if root is not None and state.root is not None:
            found["root"] = state.root.model_copy(update={"anchors": ledger.anchors.digest})
        return [*troubles, *self._note(found)]

    def _note(self, found: dict[str, object]) -> tuple[Trouble, ...]:
        """Keep what this start has found out: which content this version of Cedar has parsed, which anchors hold."""
        state = self._ledger.directory.state
        if all(getattr(state, name) == value for name, value in found.items()):
            return ()
        try:
            self._ledger.commit(**found)
        except CacheError as error:
            return (Trouble("state", error),)
        return ()


def _schema_first(scopes: Mapping[str, ScopeState]) -> list[tuple[str, ScopeState]]:
    """Return the scopes with that of the org, whose bundle can bring the schema of all, before the others."""
    return sorted(scopes.items(), key=lambda kept: kept[0] == GLOBAL or is_member_scope(kept[0]))


def _require(root: TrustedRoot | None) -> TrustedRoot:
    if root is None:
        msg = "no root is trusted, so nothing that is kept can be"
        raise RootMissing(msg)
    return root
