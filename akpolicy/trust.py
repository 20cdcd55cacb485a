"""The one judge of trust: bytes in, a typed document or a typed error out.

Rules:

- Nothing else in akpolicy decides whether a document is believed. Server, sidecar, command line and tests ask here; the
  cache and the network go through the same door.
- Received bytes are verified first and parsed after. A threshold counts distinct *keys*, never ids or signatures.
- The first root must be signed by the configured anchors and by its own root role. This judge follows no rotation yet:
  another root than the trusted one is refused.
- The root says of each prefix whether its signers may grant. The judge does not read Cedar: a `VerifiedBundle` says so
  (`grants`), and who compiles it calls `refuse_ungranted` with the permits that it found.
- A bundle is believed if keys that the root names for its scope signed it, within their validity; if it is of the
  root's epoch, not older than what was accepted before, not a different document of the same version, and not
  absurdly ahead; if it is valid now; and if its content is what it names.
- The judge does no I/O and reads no clock: `now` is handed in, in epoch seconds, once for each judgement.
- Judging changes nothing. `advance` moves the mark of a scope, and the caller does that when the bundle is on disk. A
  mark never goes back, in whatever order bundles that were judged together are accepted.

Wrong data raises a `TrustError` (or a `PolicyError` for the entries of a content); a wrong call raises `RuntimeError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from akpolicy import __version__
from akpolicy.bundle import Manifest, check_reference, open_content
from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    BundleExpired,
    EpochMismatch,
    Equivocation,
    IssuedInFuture,
    KeyNotAuthorised,
    LifetimeTooLong,
    NotYetValid,
    OrgMismatch,
    RollbackDetected,
    RootChainGap,
    RootExpired,
    RootMissing,
    RootRollback,
    RootUnanchored,
    SchemaUnsupported,
    ScopeMismatch,
    SidecarTooOld,
    VersionJump,
)
from akpolicy.limits import CLOCK_SKEW_S, MAX_BUNDLE_LIFETIME_S, MAX_VERSION_JUMP
from akpolicy.root import parse_root
from akpolicy.scope import org_of, org_scope
from akpolicy.signatures import check_key_lifetimes, check_kind, check_role, usable_signers, verified_signers
from akpolicy.strict_json import load, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.bundle import OpenedContent
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.keys import AnchorSet, PublicKey
    from akpolicy.root import Delegation, Root


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A believed root; `digest` (hex) names its exact bytes."""

    document: Root
    keys: dict[str, PublicKey]
    digest: str
    envelope: SignedEnvelope


@dataclass(frozen=True, slots=True)
class Mark:
    """What was accepted last for one scope: nothing older is believed again. Digests are hex."""

    epoch: int
    version: int
    digest: str
    min_version: int
    previous_digest: str = ""


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A believed manifest; `fresh` is False if it is the very document that the mark names.

    `grants` is False if its signers may publish forbids only.
    """

    manifest: Manifest
    digest: str
    envelope: SignedEnvelope
    fresh: bool
    grants: bool


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A believed manifest with its content (None if the scope is deleted). The Cedar text is not parsed yet.

    `grants` is False if its signers may publish forbids only: pass its permits to `refuse_ungranted`.
    """

    manifest: Manifest
    digest: str
    envelope: SignedEnvelope
    content: OpenedContent | None
    grants: bool


def refuse_ungranted(bundle: VerifiedBundle | VerifiedManifest, permits: Sequence[str]) -> None:
    """Raise `KeyNotAuthorised` if the bundle permits what its signers may not; `permits` are the ids of its permits.

    Must be called after the Cedar text is parsed and before the bundle is accepted.
    """
    if permits and not bundle.grants:
        msg = (
            f"policy `{permits[0]}` permits, but the root lets the signers of `{bundle.manifest.scope}` only forbid; "
            "have it signed by a key that grants, or remove it"
        )
        raise KeyNotAuthorised(msg)


# A pre-release counts as its release.
_OWN_VERSION = tuple(int(part) for part in re.findall(r"\d+", __version__)[:3])


class Judge:
    """Judges the documents of one org by its anchors, its root and the marks of its scopes."""

    def __init__(self, org: str, anchors: AnchorSet, *, marks: dict[str, Mark] | None = None) -> None:
        """Begin with the marks of earlier runs, if any, and without a root."""
        self._org = org
        self._anchors = anchors
        self._marks = dict(marks or {})
        self._root: TrustedRoot | None = None

    @property
    def root(self) -> TrustedRoot | None:
        """The believed root, or None before the first."""
        return self._root

    @property
    def marks(self) -> dict[str, Mark]:
        """A copy of the marks, by scope."""
        return dict(self._marks)

    # --- roots --------------------------------------------------------------------------------------------------------

    def trust_root(self, envelope: SignedEnvelope, now: float) -> TrustedRoot:
        """Judge a root and believe it from now on. The trusted root again is returned as it is."""
        # (1) limits and kind, before any cryptography.
        check_kind(envelope, PayloadType.ROOT)
        digest = envelope.digest().hex()
        if self._root is not None and digest == self._root.digest:
            return self._root
        # (2) the configured anchors signed these bytes; only then parse them.
        self._check_anchored(envelope, now)
        document, keys = parse_root(envelope.payload)
        # (3) it is this org's, and the next one.
        self._check_root_identity(document)
        # (4) its own root role signed it.
        signers = verified_signers(envelope, keys)
        check_role(document.roles.root, signers, "the root role")
        # (5) it is valid now, and this software may follow it.
        _check_root_validity(document, now)
        self._root = TrustedRoot(document, keys, digest, envelope)
        return self._root

    def _check_anchored(self, envelope: SignedEnvelope, now: float) -> None:
        usable = {
            anchor.key.key_id: anchor.key
            for anchor in self._anchors.anchors
            if (anchor.valid_from is None or anchor.valid_from <= now)
            and (anchor.valid_until is None or now < anchor.valid_until)
        }
        message = envelope.pae()
        signers = {
            s.key_id
            for s in envelope.signatures
            if s.key_id in usable and usable[s.key_id].verifies(s.signature, message)
        }
        if len(signers) < self._anchors.threshold:
            msg = (
                f"root of `{self._org}` is signed by {len(signers)} of {self._anchors.threshold} needed trust anchors; "
                "check that trust_anchors.keys holds the anchor that the server printed for this org"
            )
            raise RootUnanchored(msg)

    def _check_root_identity(self, document: Root) -> None:
        if document.org != self._org:
            msg = f"root is of the org `{document.org}`, not of `{self._org}`"
            raise OrgMismatch(msg)
        current = self._root.document.version if self._root else 0
        if self._root is not None and document.version == current:
            msg = f"another root with version {current}"
            raise Equivocation(msg)
        if document.version < current:
            msg = f"root has version {document.version}, older than the trusted {current}"
            raise RootRollback(msg)
        if self._root is not None or document.version != 1:
            msg = (
                f"root has version {document.version} and {current} is trusted; this version of akpolicy follows no "
                "root rotation: upgrade it"
            )
            raise RootChainGap(msg)

    # --- bundles ------------------------------------------------------------------------------------------------------

    def judge_manifest(
        self, envelope: SignedEnvelope, now: float, *, held: bool = False, expected_scope: str | None = None
    ) -> VerifiedManifest:
        """Judge a bundle's manifest, before its content is there.

        `expected_scope` is the scope that was asked for, where one was. `held` is for documents that this host accepted
        earlier and keeps: they must be exactly what the mark names, and they may have expired since (an expired bundle
        denies; it is not dropped).
        """
        # (1) limits and kind, before any cryptography.
        check_kind(envelope, PayloadType.BUNDLE)
        root = self._usable_root(now, held=held)
        # (2) known keys signed these bytes; only then parse them.
        signers = verified_signers(envelope, root.keys)
        manifest = load(envelope.payload, Manifest)
        # (3) the scope is ours, and those keys may sign it.
        role = self._role_for(manifest, root.document, expected_scope)
        usable = usable_signers(role, signers, root.document, now, held=held)
        check_role(role, usable, f"the scope `{manifest.scope}`")
        # (4) the signing keys live as long as the bundle.
        check_key_lifetimes(manifest, role, usable, root.document)
        # (5) epoch and version do not go back, and one version is one document.
        fresh = self._check_version(manifest, envelope.digest().hex(), root.document, held=held)
        # (6) it is valid now.
        _check_bundle_times(manifest, now, held=held)
        # (7) its content, by what the manifest says of it, is acceptable.
        if manifest.content is not None:
            check_reference(manifest.content)
        return VerifiedManifest(manifest, envelope.digest().hex(), envelope, fresh, role.grants)

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
                _refuse_schema(manifest)
        return VerifiedBundle(manifest, verified.digest, verified.envelope, opened, verified.grants)

    def mark_after(self, bundle: VerifiedBundle | VerifiedManifest) -> Mark:
        """Return the mark that accepting `bundle` leads to, without moving anything.

        Raises `RollbackDetected` or `Equivocation` if a bundle that this one must not follow was accepted since it was
        judged.
        """
        manifest = bundle.manifest
        before = self._marks.get(manifest.scope)
        if before is not None and not self._is_ahead(manifest, bundle.digest):
            return before
        return Mark(
            manifest.epoch, manifest.version, bundle.digest, manifest.min_version, before.digest if before else ""
        )

    def advance(self, bundle: VerifiedBundle) -> None:
        """Move the scope's mark to an accepted bundle. Call it once the bundle and its mark are on disk.

        Raises as `mark_after` does, with the mark where it was.
        """
        self._marks[bundle.manifest.scope] = self.mark_after(bundle)

    def _usable_root(self, now: float, *, held: bool) -> TrustedRoot:
        if self._root is None:
            msg = "no root is trusted yet, so no bundle can be"
            raise RootMissing(msg)
        if not held and now >= self._root.document.expires_at:
            msg = (
                f"root expired at {self._root.document.expires_at}; nothing can be published before there is a new one"
            )
            raise RootExpired(msg)
        return self._root

    def _role_for(self, manifest: Manifest, root: Root, expected_scope: str | None) -> Delegation:
        if expected_scope is not None and manifest.scope != expected_scope:
            msg = f"bundle is for `{manifest.scope}`, but `{shown(expected_scope)}` was asked for"
            raise ScopeMismatch(msg)
        if org_of(manifest.scope) not in (None, self._org):
            msg = f"bundle is for `{manifest.scope}`, which is not a scope of `{self._org}`"
            raise ScopeMismatch(msg)
        role = root.bundle_role(manifest.scope)
        if role is None:
            msg = f"root lets nobody sign bundles for `{manifest.scope}`"
            raise KeyNotAuthorised(msg)
        return role

    def _check_version(self, manifest: Manifest, digest: str, root: Root, *, held: bool) -> bool:
        """Return whether the manifest is another one than the mark's."""
        if manifest.epoch != root.epoch:
            msg = f"bundle has epoch {manifest.epoch}, the root has {root.epoch}"
            raise EpochMismatch(msg)
        mark = self._marks.get(manifest.scope)
        if held and (mark is None or mark.digest != digest):
            msg = f"kept bundle of `{manifest.scope}` is not the one that was accepted last"
            raise RollbackDetected(msg)
        return self._is_ahead(manifest, digest)

    def _is_ahead(self, manifest: Manifest, digest: str) -> bool:
        """Return whether the manifest comes after the mark; False if the mark names it, raise if it must not follow."""
        mark = self._marks.get(manifest.scope)
        version = manifest.version
        if mark is None or manifest.epoch > mark.epoch:
            _check_jump(version, 0)
            return True
        if manifest.epoch < mark.epoch or version < mark.version:
            msg = (
                f"bundle of `{manifest.scope}` has epoch {manifest.epoch} version {version}, "
                f"older than the accepted {mark.epoch}/{mark.version}"
            )
            raise RollbackDetected(msg)
        if version == mark.version:
            if digest != mark.digest:
                msg = f"two different bundles of `{manifest.scope}` have version {version}"
                raise Equivocation(msg)
            return False
        _check_jump(version, mark.version)
        return True


def _refuse_schema(manifest: Manifest) -> NoReturn:
    org = org_of(manifest.scope)
    if org is not None and manifest.scope != org_scope(org):
        msg = f"bundle of `{manifest.scope}` brings a schema; only `global` and an org's own scope may"
        raise ScopeMismatch(msg)
    msg = "the bundle brings its own schema; this version of akpolicy only knows the default schema"
    raise SchemaUnsupported(msg)


def _check_jump(version: int, before: int) -> None:
    if version - before > MAX_VERSION_JUMP:
        msg = f"version {version} is more than {MAX_VERSION_JUMP} ahead of {before}"
        raise VersionJump(msg)


def _check_bundle_times(manifest: Manifest, now: float, *, held: bool) -> None:
    if manifest.expires_at - manifest.issued_at > MAX_BUNDLE_LIFETIME_S:
        msg = f"bundle of `{manifest.scope}` would live longer than {MAX_BUNDLE_LIFETIME_S} seconds"
        raise LifetimeTooLong(msg)
    if manifest.issued_at > now + CLOCK_SKEW_S:
        msg = f"bundle of `{manifest.scope}` was issued at {manifest.issued_at}, after now; check this machine's clock"
        raise IssuedInFuture(msg)
    if manifest.not_before > now + CLOCK_SKEW_S:
        msg = f"bundle of `{manifest.scope}` is valid only from {manifest.not_before}"
        raise NotYetValid(msg)
    if not held and now >= manifest.expires_at:
        msg = f"bundle of `{manifest.scope}` expired at {manifest.expires_at}; publish it again"
        raise BundleExpired(msg)


def _check_root_validity(document: Root, now: float) -> None:
    if document.issued_at > now + CLOCK_SKEW_S:
        msg = f"root was issued at {document.issued_at}, after now; check this machine's clock"
        raise IssuedInFuture(msg)
    if now >= document.expires_at:
        msg = f"root expired at {document.expires_at}"
        raise RootExpired(msg)
    if tuple(int(part) for part in document.min_sidecar.split(".")) > _OWN_VERSION:
        msg = f"root demands akpolicy {document.min_sidecar} or newer, this is {__version__}: upgrade"
        raise SidecarTooOld(msg)
