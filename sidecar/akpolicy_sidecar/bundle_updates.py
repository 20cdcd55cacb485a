"""Bundles and rollbacks from the server: judged, compiled, kept, enforced.

A bundle takes effect in this order, and an error at any step leaves what is enforced as it was: (1) judge the manifest,
(2) get the content, (3) judge the content, (4) compile, (5) write to disk, (6) swap the snapshot, (7) move the judge's
mark. Only then is it reported as applied.

The bundle of the org's own scope may bring another schema. It is then that of all layers, in the same swap (`layers`).

This sidecar enforces `global` and every scope of its own org, as many as an index can name. What is signed well for
another org is refused by the judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import CacheError, Equivocation, FieldInvalid, RootMissing
from akpolicy.scope import check_scope, org_of
from akpolicy.wire import envelope_to_bytes
from akpolicy_sidecar.layers import ENGINE
from akpolicy_sidecar.ledger import scope_of
from akpolicy_sidecar.pauses import let_go, many_objects
from akpolicy_sidecar.state import Change, FreshnessState, ScopeState
from akpolicy_sidecar.updates import Accepted, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.bundle import ContentReference
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import VerifiedBundle, VerifiedManifest
    from akpolicy_sidecar.freshness import Freshness
    from akpolicy_sidecar.layers import Enforced, LayerBuilder
    from akpolicy_sidecar.ledger import Ledger

    # Returns the content that a believed manifest refers to.
    ContentSource = Callable[[ContentReference], bytes]


class BundleUpdates:
    """Applies bundles and rollbacks."""

    def __init__(self, ledger: Ledger, builder: LayerBuilder) -> None:
        """Work on `ledger`."""
        self._ledger = ledger
        self._builder = builder
        self._blobs: set[str] = set()

    @property
    def held_blobs(self) -> frozenset[str]:
        """The digests of content that is on disk and sound."""
        named = {scope.blob for scope in self._ledger.directory.state.scopes.values()}
        return frozenset(self._blobs & named)

    def note_blob(self, digest: str) -> None:
        """Note that this content is on disk and sound."""
        self._blobs.add(digest)

    def held_content(self, digest: str) -> bytes:
        """Return content from the disk; raise a `CacheError`, after which it is no longer said to be held."""
        try:
            return self._ledger.directory.blob(digest)
        except CacheError:
            self._blobs.discard(digest)
            raise

    def concerns(self, scope: str) -> bool:
        """Whether the text is one of the scopes that this sidecar enforces."""
        try:
            return org_of(check_scope(scope)) in (None, self._ledger.org)
        except FieldInvalid:
            return False

    @property
    def lacking(self) -> tuple[str, ...]:
        """The scopes of which the last heartbeat names another document than is enforced."""
        lacking = self._ledger.enforcement.vouching.lacking
        return tuple(scope for scope in lacking if org_of(scope) in (None, self._ledger.org))

    def apply(self, envelope: SignedEnvelope, original: SignedEnvelope | None, content: ContentSource) -> Accepted:
        """Make a bundle take effect; `content` is asked once, for a believed manifest that has content.

        Raises the `TrustError`, `PolicyError` or `CacheError` that says why not, and what `content` raises; what was
        enforced is enforced still.
        """
        judge, enforcement = self._ledger.judge, self._ledger.enforcement
        # (1) the manifest
        verified = self._judged(envelope, original)
        manifest = verified.manifest
        if not verified.fresh and enforcement.get(manifest.scope) is not None:
            return Accepted(Outcome.UNCHANGED, manifest.scope, manifest.version)
        # (2) its content
        blob = content(manifest.content) if manifest.content is not None else None
        with many_objects(manifest.content.policies if manifest.content is not None else 0):
            # (3) which is what the manifest says
            bundle = judge.judge_content(verified, blob)
            # (4) and can be enforced, by a schema that everything else fits
            schema = self._builder.schema_with(bundle, parsed_before=False)
            entry = self._built(bundle, schema)
            self._refit(manifest.scope, schema)
        # (5) survives a crash
        freshness = enforcement.vouching.with_document(manifest.scope, entry.bundle.digest)
        self._persist(bundle, blob, freshness)
        # (6) takes effect
        self._builder.use(schema)
        enforcement.schema = schema
        enforcement.put(manifest.scope, entry)
        enforcement.vouching.deliver(freshness)
        enforcement.swap()
        # (7) and nothing older does any more
        judge.advance(bundle)
        if bundle.content is not None:
            # Nobody else has it; what is enforced has texts of its own.
            let_go(bundle.content.content.policies)
        return Accepted(Outcome.APPLIED, manifest.scope, manifest.version)

    def _judged(self, envelope: SignedEnvelope, original: SignedEnvelope | None) -> VerifiedManifest:
        self._ledger.require_newest_root()
        now = self._ledger.time_at(self._ledger.moment())
        try:
            return self._ledger.judge.judge_manifest(envelope, now, original=original)
        except Equivocation:
            ours = self._ledger.enforcement.get(scope_of(envelope))
            self._ledger.keep_evidence(envelope, ours.envelope if ours else None)
            raise

    def _refit(self, scope: str, schema: CedarSchema) -> None:
        """Raise `SchemaConflict` unless all layers but that of a scope fit a schema, if it is another than theirs."""
        if schema is self._builder.schema:
            return
        enforcement = self._ledger.enforcement
        others = (*enforcement, *enforcement.leaving.items())
        self._builder.refit([(other, entry) for other, entry in others if other != scope], schema)

    def _built(self, bundle: VerifiedBundle, schema: CedarSchema) -> Enforced:
        root = self._ledger.judge.root
        if root is None:
            msg = "no root is trusted yet"
            raise RootMissing(msg)
        expires_at = root.document.expires_at
        return self._builder.build(bundle, schema, root_expires_at=expires_at, parsed_before=False)

    def _persist(self, bundle: VerifiedBundle, blob: bytes | None, freshness: Freshness) -> None:
        directory = self._ledger.directory
        digest = directory.put_blob(blob) if blob is not None else None
        original = directory.put_envelope(envelope_to_bytes(bundle.original)) if bundle.original else None
        envelope = directory.put_envelope(envelope_to_bytes(bundle.envelope))
        mark = self._ledger.judge.mark_after(bundle)
        kept = ScopeState(
            epoch=mark.epoch,
            version=mark.version,
            digest=mark.digest,
            min_version=mark.min_version,
            previous_digest=mark.previous_digest or None,
            envelope=envelope,
            original=original,
            blob=digest,
            engine=ENGINE,
        )
        scope, vouching = bundle.manifest.scope, self._ledger.enforcement.vouching
        is_known = freshness.confirmations.common is None or scope in freshness.by_scope
        self._ledger.keep(
            Change(
                scopes={scope: kept},
                unconfirmed=[] if is_known else [scope],
                freshness=FreshnessState.of(freshness, vouching.unconfirmed)
                if freshness is not vouching.freshness
                else None,
            )
        )
        if digest is not None:
            self._blobs.add(digest)
