"""Documents before they are signed: what is to be published, apart from whom it is for.

Rules:

- One draft makes one document for each epoch in use; they differ in epoch, version and what follows from these alone.
- How far back a later rollback may go is decided by why something is published (`Floor`), never carried by accident: a
  renewal leaves it where it was, a freeze cannot be rolled back past. After a rollback it is what that restored,
  because some hosts know nothing older: what is published must suit them all.
- A lifetime that somebody asked for is kept or refused; a default one ends with the keys that sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from akpolicy.bundle import Manifest, OfflineFloor
from akpolicy.envelope import PayloadType
from akpolicy.errors import ExpiryExceedsKey, RollbackNotAuthorised
from akpolicy.rollback import Restored, Rollback
from akpolicy.strict_json import load
from akpolicy_server.judging import StoredContent
from akpolicy_server.signatory import bundles_of, rollbacks_of
from akpolicy_server.store.revisions import RevisionKind, current_revision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.root import Delegation, Root
    from akpolicy_server.judging import ContentToJudge
    from akpolicy_server.signatory import Duty
    from akpolicy_server.store.revisions import IdempotencyClaim, RevisionRecord


class Floor(Enum):
    """How far back a rollback may go, once a document is enforced."""

    PREVIOUS = "to the version before"
    UNCHANGED = "as far as before"
    ITSELF = "nowhere"

    def version(self, current: RevisionRecord | None, version: int) -> int:
        """Return it as `min_version` of a document with `version` that follows `current` of the same epoch."""
        if current is None or self is Floor.ITSELF:
            return version
        if self is Floor.UNCHANGED:
            return current.min_version
        # Going back to a rollback means to restore what that restored.
        return current.version if current.restores_version is None else current.restores_version


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document goes: its epoch and version, what it follows there, and its life in epoch seconds."""

    epoch: int
    version: int
    current: RevisionRecord | None
    issued_at: int
    expires_at: int


def place_in(connection: Connection, scope: str, epoch: int, issued_at: int, expires_at: int) -> Place:
    """Return the next place of a scope in an epoch; versions begin at 1 in each."""
    current = current_revision(connection, scope, epoch)
    return Place(epoch, current.version + 1 if current else 1, current, issued_at, expires_at)


@dataclass(frozen=True, slots=True)
class UnsignedDocument:
    """A document to be signed. For a rollback: with the revision that it restores."""

    payload_type: PayloadType
    payload: bytes
    min_version: int
    restores: RevisionRecord | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is published, by whom (None: the server itself), and the request that must not be done twice."""

    kind: RevisionKind
    message: str = ""
    published_by: str | None = None
    claim: IdempotencyClaim | None = None


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """A bundle. `lifetime_s` is in seconds; without `is_lifetime_asked` it ends with the signing keys.

    One that would not live beyond `must_outlive` (epoch seconds) is not worth publishing.
    """

    scope: str
    content: ContentToJudge
    offline: OfflineFloor
    floor: Floor
    lifetime_s: int
    is_lifetime_asked: bool
    reason: Reason
    must_outlive: int = 0

    @property
    def duty(self) -> Duty:
        """What its signers do."""
        return bundles_of(self.scope)

    def role(self, root: Root) -> Delegation | None:
        """Return who signs it."""
        return root.bundle_role(self.scope)

    def latest_end(self, epoch: int) -> int | None:  # noqa: ARG002 - rollbacks need it
        """Return when it must end at the latest for reasons of its own; None for none."""
        return None

    def document(self, place: Place) -> UnsignedDocument:
        """Return it for its place; raise `ExpiryExceedsKey` if it would not live as long as it must."""
        if place.expires_at <= self.must_outlive:
            raise ExpiryExceedsKey(
                f"a new bundle of `{self.scope}` would end at {place.expires_at}, with its signing keys, and not live "
                "longer than the current one; publish a root that names longer-lived keys"
            )
        manifest = Manifest(
            type="bundle",
            spec=1,
            scope=self.scope,
            epoch=place.epoch,
            version=place.version,
            issued_at=place.issued_at,
            not_before=place.issued_at,
            expires_at=place.expires_at,
            min_version=self.floor.version(place.current, place.version),
            offline=self.offline,
            content=self.content.reference,
        )
        return UnsignedDocument(PayloadType.BUNDLE, manifest.to_bytes(), manifest.min_version)


@dataclass(frozen=True, slots=True)
class RollbackDraft:
    """A rollback; `restores` has the bundle of each epoch that it returns to."""

    scope: str
    content: ContentToJudge
    restores: Mapping[int, RevisionRecord]
    lifetime_s: int
    reason: Reason

    @property
    def duty(self) -> Duty:
        """What its signers do."""
        return rollbacks_of(self.scope)

    @property
    def is_lifetime_asked(self) -> bool:
        """Whether it may not end with its signing keys: it may."""
        return False

    def role(self, root: Root) -> Delegation | None:
        """Return who signs it."""
        return root.rollback_role(self.scope)

    def latest_end(self, epoch: int) -> int | None:
        """Return when it must end at the latest: with its original."""
        return self._original(epoch).expires_at

    def document(self, place: Place) -> UnsignedDocument:
        """Return it for its place; raise `RollbackNotAuthorised` if what it restores has expired."""
        original = self._original(place.epoch)
        if place.expires_at <= place.issued_at:
            raise RollbackNotAuthorised(
                f"version {original.version} of `{self.scope}` expired at {original.expires_at}; publish its policies "
                "again"
            )
        rollback = Rollback(
            type="rollback",
            spec=1,
            scope=self.scope,
            epoch=place.epoch,
            version=place.version,
            issued_at=place.issued_at,
            expires_at=place.expires_at,
            restores=Restored(version=original.version, digest=original.digest.hex()),
            content=self.content.reference,
        )
        # A host that joins now knows nothing older, and goes back no further than this; others might.
        return UnsignedDocument(PayloadType.ROLLBACK, rollback.to_bytes(), original.version, original)

    def _original(self, epoch: int) -> RevisionRecord:
        if epoch not in self.restores:
            raise RollbackNotAuthorised(
                f"hosts of epoch {epoch} never had that content of `{self.scope}` as a bundle; publish the policies "
                "again"
            )
        return self.restores[epoch]


Draft = BundleDraft | RollbackDraft


def renewal_of(revision: RevisionRecord, read: Callable[[], bytes], *, must_outlive: int = 0) -> BundleDraft:
    """Return a bundle with the content, the offline floor and the intended lifetime of a revision.

    It leaves how far back a rollback may go as it is. `read` reads the content, if that is needed.
    """
    manifest = manifest_of(revision)
    if manifest.content is None:
        raise RuntimeError("no revision without content is published")
    return BundleDraft(
        scope=revision.scope,
        content=StoredContent(manifest.content, read),
        offline=manifest.offline,
        floor=Floor.UNCHANGED,
        lifetime_s=revision.lifetime_s,
        is_lifetime_asked=False,
        reason=Reason(RevisionKind.RENEWAL, f"renews version {revision.version}"),
        must_outlive=must_outlive,
    )


def manifest_of(revision: RevisionRecord) -> Manifest:
    """Return the manifest that a revision amounts to in content and offline floor: its own, or its original's."""
    envelope: SignedEnvelope = revision.original or revision.envelope
    return load(envelope.payload, Manifest)
