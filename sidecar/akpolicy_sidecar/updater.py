"""From a signed document to what is enforced. Pure domain: no gRPC, no clock but the one handed in.

Rules:

- A bundle takes effect in this order, and an error at any step leaves what is enforced as it was: (1) judge the
  manifest, (2) get the content, (3) judge the content, (4) compile, (5) write to disk, (6) swap the snapshot, (7) move
  the judge's mark. Only then is it reported as applied.
- What comes from the cache goes through the same judge as what comes from the network. An expired bundle that is held
  stays and denies; it is not dropped.
- A kept bundle that cannot be loaded keeps its mark (nothing older is believed again), is missing from the snapshot
  (which then denies), and is not claimed towards the server, so that the server sends it again.
- This sidecar enforces `global` and its own org's scope. Other scopes are refused, even if they are signed well.
- A prefix without `grants` publishes forbids only; what its policies are is known once they are compiled.

One thread calls this at a time: the program's start, then the watcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from akpolicy.decision import BundleVersion
from akpolicy.engine.compile import Effect, compile_layer
from akpolicy.engine.source import PolicyText
from akpolicy.errors import (
    AkpolicyError,
    CacheCorrupt,
    CacheError,
    Equivocation,
    PolicyError,
    RootMissing,
    ScopeMismatch,
    TrustError,
)
from akpolicy.scope import GLOBAL, org_scope
from akpolicy.trust import Judge, Mark, refuse_ungranted
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from akpolicy_sidecar.cache import ContactState, RootState, ScopeState
from akpolicy_sidecar.snapshot import Layer, Snapshot, layer_of
from akpolicy_sidecar.status import Link, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.bundle import ContentReference
    from akpolicy.clock import Clock
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.keys import AnchorSet
    from akpolicy.root import Root
    from akpolicy.trust import VerifiedBundle
    from akpolicy_sidecar.cache import State, StateDirectory
    from akpolicy_sidecar.offline import OfflineRule
    from akpolicy_sidecar.snapshot import SnapshotHolder

    # Returns the content that a believed manifest refers to.
    ContentSource = Callable[[ContentReference], bytes]

# What makes a document unusable, without being a fault of this program.
REFUSALS = (TrustError, PolicyError, CacheError)


class Outcome(Enum):
    """What became of a document that was not refused."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A bundle that was not refused: what became of it, and which one it is by its signed manifest."""

    outcome: Outcome
    scope: str
    version: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this host has: the newest root's version (0: none), each enforced revision, digests of content (hex)."""

    root_version: int
    enforced: tuple[BundleVersion, ...]
    blobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadProblem:
    """A kept document that cannot be loaded; `subject` is its scope, `root` or `state`."""

    subject: str
    error: AkpolicyError


@dataclass(frozen=True, slots=True)
class _Enforced:
    """An accepted revision; `layer` is None if it deleted the scope."""

    bundle: BundleVersion
    layer: Layer | None


class Updater:
    """Applies documents, and is the only one to replace the snapshot."""

    def __init__(
        self,
        *,
        org: str,
        anchors: AnchorSet,
        directory: StateDirectory,
        schema: CedarSchema,
        clock: Clock,
        snapshots: SnapshotHolder,
        local: OfflineRule,
    ) -> None:
        """Begin without policy; `local` is the host's configured offline rule."""
        self._org = org
        self._anchors = anchors
        self._directory = directory
        self._schema = schema
        self._clock = clock
        self._snapshots = snapshots
        self._local = local
        self._judge = Judge(org, anchors)
        self._scopes = frozenset({GLOBAL, org_scope(org)})
        self._enforced: dict[str, _Enforced] = {}
        self._missing: set[str] = set()
        self._blobs: set[str] = set()

    # --- what is held -------------------------------------------------------------------------------------------------

    @property
    def holdings(self) -> Holdings:
        """What to tell the server that this host has."""
        root = self._directory.state.root
        named = {scope.blob for scope in self._directory.state.scopes.values()}
        return Holdings(
            # A root that is trusted and not on disk is asked for again.
            root.version if root and self._judge.root else 0,
            tuple(entry.bundle for _, entry in sorted(self._enforced.items())),
            tuple(sorted(self._blobs & named)),
        )

    @property
    def root(self) -> Root | None:
        """The trusted root, if there is one. Safe to read from any thread."""
        return self._judge.root.document if self._judge.root else None

    def concerns(self, scope: str) -> bool:
        """Whether the scope is one of those that this sidecar enforces."""
        return scope in self._scopes

    def held_content(self, reference: ContentReference) -> bytes:
        """Return content from the cache; raise a `CacheError`."""
        return self._directory.blob(reference.digest)

    # --- contact ------------------------------------------------------------------------------------------------------

    def kept_link(self) -> Link:
        """Return what an earlier run knew of the server's stream."""
        contact = self._directory.state.contact
        if contact is None:
            return Link()
        heard = Moment(contact.wall_ms / 1000, contact.elapsed_ms / 1000, contact.boot_id)
        return Link(heard=heard, complete=True)

    def keep_contact(self, moment: Moment) -> None:
        """Keep on disk that the server was heard and had nothing more to deliver; raise `CacheWriteFailed`."""
        contact = ContactState(
            wall_ms=int(moment.wall * 1000), elapsed_ms=int(moment.elapsed * 1000), boot_id=moment.boot_id
        )
        self._directory.commit(self._directory.state.model_copy(update={"contact": contact}))

    # --- start --------------------------------------------------------------------------------------------------------

    def load_from_cache(self) -> tuple[LoadProblem, ...]:
        """Enforce what the state directory names, and return what of it could not be loaded.

        Raises `StateDirUnusable` if the directory is another org's.
        """
        problems: list[LoadProblem] = []
        now = self._clock.now()
        try:
            state = self._directory.load()
        except CacheError as error:
            problems.append(LoadProblem("state", error))
            state = self._directory.state
        self._judge = Judge(self._org, self._anchors, marks=_marks(state))
        try:
            self._load_root(state, now)
        except REFUSALS as error:
            problems.append(LoadProblem("root", error))
        for scope, kept in state.scopes.items():
            try:
                self._load_scope(scope, kept, now)
            except REFUSALS as error:
                problems.append(LoadProblem(scope, error))
                self._missing.add(scope)
        self._swap()
        return tuple(problems)

    def _load_root(self, state: State, now: float) -> None:
        if state.root is not None:
            self._judge.trust_root(envelope_from_bytes(self._directory.root(state.root)), now)

    def _load_scope(self, scope: str, kept: ScopeState, now: float) -> None:
        # The content first: where it is sound, the server need not send it again, whatever else is wrong.
        blob = self._directory.blob(kept.blob) if kept.blob else None
        if kept.blob:
            self._blobs.add(kept.blob)
        envelope = envelope_from_bytes(self._directory.envelope(kept.envelope))
        verified = self._judge.judge_manifest(envelope, now, held=True)
        if verified.manifest.scope != scope or (verified.manifest.content is None) != (blob is None):
            msg = f"the state names other documents for `{scope}` than its own"
            raise CacheCorrupt(msg)
        bundle = self._judge.judge_content(verified, blob)
        self._enforced[scope] = self._compile(bundle)

    # --- updates ------------------------------------------------------------------------------------------------------

    def apply_root(self, envelope: SignedEnvelope) -> Outcome:
        """Judge a root, trust it and keep it; raise the `TrustError` or `CacheError` that says why not."""
        now = self._clock.now()
        kept = self._directory.state.root
        digest = envelope.digest().hex()
        if kept is not None and self._judge.root is None and digest != kept.digest:
            # The kept root could not be loaded, but its digest is known: a second opinion must not replace it.
            Judge(self._org, self._anchors).trust_root(envelope, now)
            msg = "another root than the one that this host trusted before, which cannot be loaded"
            raise Equivocation(msg)
        root = self._judge.trust_root(envelope, now)
        data = envelope_to_bytes(envelope)
        version = root.document.version
        if kept is not None and kept.digest == digest and self._is_kept(kept):
            return Outcome.UNCHANGED
        state = RootState(version=version, digest=digest, envelope=self._directory.put_root(version, data))
        self._directory.commit(self._directory.state.model_copy(update={"root": state}))
        return Outcome.APPLIED

    def apply_bundle(self, envelope: SignedEnvelope, content: ContentSource) -> Accepted:
        """Make a bundle take effect; `content` is asked once, for a believed manifest that has content.

        Raises the `TrustError`, `PolicyError` or `CacheError` that says why not, and what `content` raises; what was
        enforced is enforced still.
        """
        # (1) the manifest
        verified = self._judge.judge_manifest(envelope, self._clock.now())
        scope = verified.manifest.scope
        if scope not in self._scopes:
            msg = f"bundle is for `{scope}`; this version enforces `{GLOBAL}` and `{org_scope(self._org)}` only"
            raise ScopeMismatch(msg)
        if not verified.fresh and scope in self._enforced:
            return Accepted(Outcome.UNCHANGED, scope, verified.manifest.version)
        # (2) its content
        reference = verified.manifest.content
        blob = content(reference) if reference is not None else None
        # (3) which is what the manifest says
        bundle = self._judge.judge_content(verified, blob)
        # (4) and can be enforced
        enforced = self._compile(bundle)
        # (5) survives a crash
        self._persist(bundle, blob)
        # (6) takes effect
        self._enforced[scope] = enforced
        self._missing.discard(scope)
        self._swap()
        # (7) and nothing older does any more
        self._judge.advance(bundle)
        return Accepted(Outcome.APPLIED, scope, verified.manifest.version)

    def _is_kept(self, kept: RootState) -> bool:
        try:
            self._directory.root(kept)
        except CacheError:
            return False
        return True

    def _compile(self, bundle: VerifiedBundle) -> _Enforced:
        manifest = bundle.manifest
        revision = BundleVersion(manifest.scope, manifest.epoch, manifest.version, bundle.digest)
        if bundle.content is None:
            return _Enforced(revision, None)
        texts = [PolicyText(p.id, p.text, manifest.scope) for p in bundle.content.content.policies]
        compiled = compile_layer(manifest.scope, texts, self._schema)
        root = self.root
        if root is None:
            msg = "no root is trusted yet"
            raise RootMissing(msg)
        refuse_ungranted(bundle, [policy.id for policy in compiled.policies if policy.effect is Effect.ALLOW])
        layer = layer_of(manifest, bundle.digest, compiled, root_expires_at=root.expires_at)
        return _Enforced(revision, layer)

    def _persist(self, bundle: VerifiedBundle, blob: bytes | None) -> None:
        digest = self._directory.put_blob(blob) if blob is not None else None
        envelope = self._directory.put_envelope(envelope_to_bytes(bundle.envelope))
        mark = self._judge.mark_after(bundle)
        kept = ScopeState(
            epoch=mark.epoch,
            version=mark.version,
            digest=mark.digest,
            min_version=mark.min_version,
            previous_digest=mark.previous_digest or None,
            envelope=envelope,
            blob=digest,
        )
        scopes = {**self._directory.state.scopes, bundle.manifest.scope: kept}
        self._directory.commit(self._directory.state.model_copy(update={"scopes": scopes}))
        if digest is not None:
            self._blobs.add(digest)

    def _swap(self) -> None:
        layers = [entry.layer for entry in self._enforced.values() if entry.layer is not None]
        self._snapshots.current = Snapshot.build(layers, local=self._local, missing=self._missing)


def _marks(state: State) -> dict[str, Mark]:
    return {
        scope: Mark(kept.epoch, kept.version, kept.digest, kept.min_version, kept.previous_digest or "")
        for scope, kept in state.scopes.items()
    }
