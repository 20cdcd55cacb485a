"""`Judge`: the steps of every judgement in their order. The rules are those of the package's docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.bundle import Manifest, check_reference, open_content
from akpolicy.envelope import PayloadType
from akpolicy.errors import RootChainTooLong, RootMissing, RootRollback
from akpolicy.heartbeat import Heartbeat
from akpolicy.limits import MAX_ROTATIONS
from akpolicy.rollback import Rollback
from akpolicy.strict_json import load
from akpolicy.trust import bundles, heartbeats, rollbacks, roots
from akpolicy.trust.signatures import (
    check_key_lifetimes,
    check_kind,
    check_role,
    usable_signers,
    verified_signers,
)
from akpolicy.trust.verdicts import (
    HeartbeatMark,
    Mark,
    TrustedRoot,
    VerifiedBundle,
    VerifiedHeartbeat,
    VerifiedManifest,
)

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.index import Index, IndexChanges
    from akpolicy.keys import AnchorSet
    from akpolicy.root import Delegation


class Judge:
    """Judges the documents of one org by its anchors, its root, the marks of its scopes and the last heartbeat."""

    def __init__(
        self,
        org: str,
        anchors: AnchorSet,
        *,
        marks: dict[str, Mark] | None = None,
        heartbeat: HeartbeatMark | None = None,
    ) -> None:
        """Begin with what earlier runs accepted, if anything, and without a root."""
        self._org = org
        self._anchors = anchors
        self._marks = dict(marks or {})
        self._heartbeat = heartbeat
        self._index: Index | None = None
        self._root: TrustedRoot | None = None
        self._older_roots: set[str] = set()
        self._rotations = 0

    @property
    def root(self) -> TrustedRoot | None:
        """The believed root, or None before the first."""
        return self._root

    @property
    def marks(self) -> dict[str, Mark]:
        """A copy of the marks, by scope."""
        return dict(self._marks)

    @property
    def heartbeat(self) -> HeartbeatMark | None:
        """The mark of the last heartbeat, or None before the first."""
        return self._heartbeat

    @property
    def index(self) -> Index | None:
        """The index of the last heartbeat that was accepted in this run."""
        return self._index

    # --- roots --------------------------------------------------------------------------------------------------------

    def begin_walk(self) -> None:
        """Let roots come: from here on, at most `MAX_ROTATIONS` of them are followed."""
        self._rotations = 0

    def judge_root(self, envelope: SignedEnvelope, now: float) -> TrustedRoot:
        """Judge a root as the first or the next one. The trusted root again is returned as it is.

        Whether it has expired is not judged here, because a chain is followed to its end: ask `check_root` then.
        """
        digest = envelope.digest().hex()
        if self._root is None:
            return roots.judge_first(envelope, self._org, self._anchors, now)
        if digest == self._root.digest:
            return self._root
        if digest in self._older_roots:
            msg = f"root is one that came before the trusted version {self._root.document.version}"
            raise RootRollback(msg)
        if self._rotations >= MAX_ROTATIONS:
            msg = f"more than {MAX_ROTATIONS} rotations at once; the rest is followed on the next connection"
            raise RootChainTooLong(msg)
        return roots.judge_next(envelope, self._root, now)

    def accept_root(self, root: TrustedRoot) -> None:
        """Believe a judged root from now on. Call it once the root is on disk."""
        if self._root is not None and self._root.digest != root.digest:
            self._older_roots.add(self._root.digest)
            self._rotations += 1
        self._root = root

    def check_root(self, now: float) -> TrustedRoot:
        """Return the believed root if it may be used now; raise `RootMissing` or `RootExpired`."""
        return roots.check_usable(self._root, now)

    def trust_root(self, envelope: SignedEnvelope, now: float) -> TrustedRoot:
        """Judge a root that is the newest one and believe it from now on."""
        root = self.judge_root(envelope, now)
        roots.check_usable(root, now)
        self.accept_root(root)
        return root

    # --- bundles and rollbacks ----------------------------------------------------------------------------------------

    def judge_manifest(
        self,
        envelope: SignedEnvelope,
        now: float,
        *,
        held: bool = False,
        expected_scope: str | None = None,
        original: SignedEnvelope | None = None,
    ) -> VerifiedManifest:
        """Judge a bundle's manifest, or a rollback with its `original`, before its content is there.

        `expected_scope` is the scope that was asked for, where one was. `held` is for documents that this host accepted
        earlier and keeps: they must be exactly what the mark names, and they may have expired since (an expired bundle
        denies; it is not dropped).
        """
        if envelope.payload_type == PayloadType.ROLLBACK:
            return self._judge_rollback(envelope, now, held=held, expected_scope=expected_scope, original=original)
        # (1) to (4): it is a bundle of ours, and its scope's signers signed it.
        manifest, role = self._signed_manifest(envelope, now, held=held, expected_scope=expected_scope)
        # (5) to (7): it is not older, it is of now, and its content may come.
        return self._placed(manifest, envelope, role, now, held=held)

    def _signed_manifest(
        self, envelope: SignedEnvelope, now: float, *, held: bool, expected_scope: str | None
    ) -> tuple[Manifest, Delegation]:
        # (1) limits and kind, before any cryptography.
        check_kind(envelope, PayloadType.BUNDLE)
        root = self._root_for(now, held=held)
        # (2) known keys signed these bytes; only then parse them.
        signers = verified_signers(envelope, root.keys)
        manifest = load(envelope.payload, Manifest)
        # (3) the scope is ours, and those keys may sign it; (4) they live as long as the bundle.
        bundles.check_scope_of(manifest.scope, self._org, expected_scope)
        role = bundles.require_role(root.document.bundle_role(manifest.scope), manifest.scope, "bundles")
        _check_signed_for(role, signers, root, manifest.scope, now, manifest.expires_at, held=held)
        return manifest, role

    def _judge_rollback(
        self,
        envelope: SignedEnvelope,
        now: float,
        *,
        held: bool,
        expected_scope: str | None,
        original: SignedEnvelope | None,
    ) -> VerifiedManifest:
        # (1) limits and kind, before any cryptography.
        check_kind(envelope, PayloadType.ROLLBACK)
        root = self._root_for(now, held=held)
        # (2) known keys signed these bytes; only then parse them.
        signers = verified_signers(envelope, root.keys)
        rollback = load(envelope.payload, Rollback)
        scope = rollback.scope
        # (3) the scope is ours, and those keys may roll it back; (4) they live as long as the rollback.
        bundles.check_scope_of(scope, self._org, expected_scope)
        role = bundles.require_role(root.document.rollback_role(scope), scope, "rollbacks")
        _check_signed_for(role, signers, root, scope, now, rollback.expires_at, held=held)
        # (4a) it restores what the scope's own signers signed, and no further back than permitted.
        original = rollbacks.require_original(rollback, original)
        restored, bundle_role = self._signed_manifest(original, now, held=held, expected_scope=None)
        rollbacks.check_restores(rollback, restored)
        mark = self._marks.get(scope)
        if mark is None or mark.digest != envelope.digest().hex():
            rollbacks.check_floor(rollback, mark)
        manifest = rollback.manifest(restored)
        # (5) to (7) as for a bundle.
        return self._placed(manifest, envelope, bundle_role, now, held=held, original=original)

    def _placed(
        self,
        manifest: Manifest,
        envelope: SignedEnvelope,
        role: Delegation,
        now: float,
        *,
        held: bool,
        original: SignedEnvelope | None = None,
    ) -> VerifiedManifest:
        digest = envelope.digest().hex()
        root = self._root_for(now, held=held)
        # (5) epoch and version do not go back, and one version is one document.
        bundles.check_epoch(manifest.epoch, root.document, held=held)
        mark = self._marks.get(manifest.scope)
        if mark is None:
            bundles.check_room(manifest.scope, len(self._marks))
        if held:
            bundles.check_held(manifest, digest, mark)
        fresh = bundles.is_ahead(manifest, digest, mark)
        # (6) it is valid now.
        bundles.check_times(manifest, now, held=held)
        # (7) its content, by what the manifest says of it, is acceptable.
        if manifest.content is not None:
            check_reference(manifest.content)
        return VerifiedManifest(manifest, digest, envelope, fresh, role.grants, original)

    def judge_content(self, verified: VerifiedManifest, blob: bytes | None) -> VerifiedBundle:
        """Judge the content that a believed manifest names; `blob` is None exactly for a deleted scope."""
        manifest = verified.manifest
        if (manifest.content is None) != (blob is None):
            msg = "a blob must be given unless the scope is deleted"
            raise RuntimeError(msg)
        opened = None
        if manifest.content is not None and blob is not None:
            opened = open_content(blob, manifest.content)
            if opened.content.schema_text is not None:
                bundles.check_may_bring_schema(manifest.scope)
        return VerifiedBundle(manifest, verified.digest, verified.envelope, opened, verified.grants, verified.original)

    def mark_after(self, bundle: VerifiedBundle | VerifiedManifest) -> Mark:
        """Return the mark that accepting `bundle` leads to, without moving anything.

        Raises `RollbackDetected` or `Equivocation` if a bundle that this one must not follow was accepted since it was
        judged.
        """
        manifest = bundle.manifest
        before = self._marks.get(manifest.scope)
        if before is not None and not bundles.is_ahead(manifest, bundle.digest, before):
            return before
        return Mark(
            manifest.epoch, manifest.version, bundle.digest, manifest.min_version, before.digest if before else ""
        )

    def advance(self, bundle: VerifiedBundle) -> None:
        """Move the scope's mark to an accepted bundle. Call it once the bundle and its mark are on disk.

        Raises as `mark_after` does, with the mark where it was.
        """
        self._marks[bundle.manifest.scope] = self.mark_after(bundle)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def judge_heartbeat(
        self,
        envelope: SignedEnvelope,
        index: bytes | Index | IndexChanges | None,
        now: float,
        *,
        nonce: str | None = None,
        latest: float | None = None,
    ) -> VerifiedHeartbeat:
        """Judge a heartbeat with its index (None: the last one's, if it names that), or how that differs from the last.

        `nonce` (hex) is the one that it must answer, None for one of those that all hosts share. `latest` is the latest
        time that it can be, where `now` is known to be behind; by default they are one.
        """
        # (1) limits and kind, before any cryptography.
        check_kind(envelope, PayloadType.HEARTBEAT)
        root = self._root_for(now, held=False)
        # (2) known keys signed these bytes; only then parse them.
        signers = verified_signers(envelope, root.keys)
        heartbeat = load(envelope.payload, Heartbeat)
        # (3) it is this org's, and those keys may sign it.
        heartbeats.check_org(heartbeat, self._org)
        role = heartbeats.require_heartbeat_role(root.document)
        usable = usable_signers(role, signers, root.document, now, held=False)
        check_role(role, usable, "heartbeats")
        # (4) it is of now, and answers the nonce.
        heartbeats.check_times(heartbeat, now, now if latest is None else latest)
        heartbeats.check_nonce(heartbeat, nonce)
        # (5) it names our root, and does not go back.
        heartbeats.check_root(heartbeat, root)
        heartbeats.check_order(heartbeat, root.document, self._heartbeat)
        # (6) its index is what it names.
        opened = heartbeats.open_index(heartbeat, index, self._index)
        mark = HeartbeatMark(root.document.epoch, heartbeat.seq, heartbeat.issued_at, heartbeat.index.digest)
        return VerifiedHeartbeat(heartbeat, envelope, opened, mark, tuple(usable))

    def accept_heartbeat(self, verified: VerifiedHeartbeat) -> None:
        """Believe nothing older than this heartbeat from now on.

        Raises `HeartbeatRollback` if a later one was accepted since it was judged.
        """
        self._heartbeat, self._index = heartbeats.mark_after(verified.mark, self._heartbeat), verified.index

    def _root_for(self, now: float, *, held: bool) -> TrustedRoot:
        """Return the root to judge by. What is held is judged by an expired one too: it denies, it is not dropped."""
        if not held:
            return roots.check_usable(self._root, now)
        if self._root is None:
            msg = "no root is trusted yet, so nothing that is kept can be"
            raise RootMissing(msg)
        return self._root


def _check_signed_for(
    role: Delegation,
    signers: list[str],
    root: TrustedRoot,
    scope: str,
    now: float,
    expires_at: int,
    *,
    held: bool,
) -> None:
    usable = usable_signers(role, signers, root.document, now, held=held)
    check_role(role, usable, f"the scope `{scope}`")
    check_key_lifetimes(scope, expires_at, role, usable, root.document)
