"""What judgements are made of: believed documents, and marks of what was believed before. Digests are hex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akpolicy.bundle import Manifest, OpenedContent
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.heartbeat import Heartbeat
    from akpolicy.index import Index
    from akpolicy.keys import PublicKey
    from akpolicy.root import Root


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A believed root; `digest` names its exact bytes."""

    document: Root
    keys: dict[str, PublicKey]
    digest: str
    envelope: SignedEnvelope


@dataclass(frozen=True, slots=True)
class Mark:
    """What was accepted last for one scope: nothing older is believed again."""

    epoch: int
    version: int
    digest: str
    min_version: int
    previous_digest: str = ""


@dataclass(frozen=True, slots=True)
class VerifiedManifest:
    """A believed manifest; `fresh` is False if it is the very document that the mark names.

    `grants` is False if its signers may publish forbids only. A rollback is the manifest that it amounts to, with the
    rollback's own digest and envelope, and has the envelope of its `original`.
    """

    manifest: Manifest
    digest: str
    envelope: SignedEnvelope
    fresh: bool
    grants: bool
    original: SignedEnvelope | None = None


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
    original: SignedEnvelope | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatMark:
    """The newest heartbeat that was accepted: nothing older is believed again.

    `epoch` is that of the root at the time: a root of a higher epoch lets `seq` begin anew.
    """

    epoch: int
    seq: int
    issued_at: int
    index_digest: str


@dataclass(frozen=True, slots=True)
class VerifiedHeartbeat:
    """A believed heartbeat with the index that it names, and the ids of the keys that signed it."""

    document: Heartbeat
    envelope: SignedEnvelope
    index: Index
    mark: HeartbeatMark
    keys: tuple[str, ...]
