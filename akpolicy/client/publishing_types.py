"""What an operator gives to the policy server and gets from it.

Times are aware datetimes in UTC; digests are lower-case hex. `to_json` has stable names: the command line prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from akpolicy.errors import Problem
from akpolicy.v1 import publishing_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

    from akpolicy.bundle import OfflineMode
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.v1 import bundle_pb2

OnlineRole = Literal["bundle", "rollback", "heartbeat"]


class RevisionKind(StrEnum):
    """How a revision came about."""

    UNKNOWN = "unknown"
    PUBLISH = "publish"
    RENEWAL = "renewal"
    ROLLBACK = "rollback"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"

    @classmethod
    def from_proto(cls, number: pb.RevisionKind.ValueType) -> RevisionKind:
        """Read a received number; `UNKNOWN` for one that this version does not know."""
        return _KINDS.get(number, cls.UNKNOWN)


_KINDS = {
    pb.REVISION_KIND_PUBLISH: RevisionKind.PUBLISH,
    pb.REVISION_KIND_RENEWAL: RevisionKind.RENEWAL,
    pb.REVISION_KIND_ROLLBACK: RevisionKind.ROLLBACK,
    pb.REVISION_KIND_FREEZE: RevisionKind.FREEZE,
    pb.REVISION_KIND_UNFREEZE: RevisionKind.UNFREEZE,
}


@dataclass(frozen=True, slots=True)
class PublishTerms:
    """Under which conditions to publish, as `PublishHeader` says; None and 0 are the server's defaults.

    `schema` is the text of an org's own schema; with `default_schema` the org goes back to the packaged one. Without
    either it keeps what it has.
    """

    message: str = ""
    expected_version: int | None = None
    idempotency_key: str = ""
    offline_mode: OfflineMode | None = None
    offline_max_age_s: int = 0
    lifetime_s: int = 0
    no_rollback: bool = False
    dry_run: bool = False
    schema: str | None = None
    default_schema: bool = False


@dataclass(frozen=True, slots=True)
class CreatedOrg:
    """A new org; `trust_anchor` goes into the configuration of its sidecars.

    `root_version` is 0 and `unsigned_root` there while the first root waits for signatures.
    """

    org: str
    trust_anchor: str
    root_version: int
    unsigned_root: SignedEnvelope | None = None

    def to_json(self) -> dict[str, object]:
        """Return plain values; `unsigned_root` in its DSSE JSON form, where there is one."""
        values: dict[str, object] = {
            "org": self.org,
            "trust_anchor": self.trust_anchor,
            "root_version": self.root_version,
        }
        return values if self.unsigned_root is None else {**values, "unsigned_root": self.unsigned_root.to_dsse_json()}


@dataclass(frozen=True, slots=True)
class CreatedOnlineKey:
    """A new key that the server holds: its id, as roots name it, and its public half, `ed25519:<base64url>`."""

    key_id: str
    public_key: str


@dataclass(frozen=True, slots=True)
class RootVersion:
    """One signed root of an org. Nothing here is verified."""

    version: int
    envelope: SignedEnvelope


@dataclass(frozen=True, slots=True)
class RevisionName:
    """Names a revision; `digest` is that of what was signed."""

    scope: str
    epoch: int
    version: int
    digest: str

    @classmethod
    def from_proto(cls, revision: bundle_pb2.Revision) -> RevisionName:
        """Read a received message."""
        return cls(revision.scope, revision.epoch, revision.version, revision.digest.hex())


@dataclass(frozen=True, slots=True)
class PublishedRoot:
    """The answer to a root; `repeated` if it was the newest before.

    `signed_anew` are the revisions that the server made because of it, `dropped` the scopes that hosts drop because no
    key of the new root stands behind them: publish those again.
    """

    version: int
    repeated: bool
    signed_anew: tuple[RevisionName, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new API key; the server keeps only a hash of `secret`."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"CreatedApiKey(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class Validation:
    """What is wrong with policies (nothing: they can be published), how many there are, and the ids of the first.

    `warnings`: what can be published and yet may not do what its author means.
    """

    problems: tuple[Problem, ...]
    policy_ids: tuple[str, ...]
    policy_count: int
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """One published revision of a scope. `digest` is that of what was signed; sizes are in bytes.

    `published_by` is empty where the server acted by itself, `restores_version` 0 unless this is a rollback,
    `min_version` how far back a rollback may go.
    """

    scope: str
    epoch: int
    version: int
    digest: str
    published_at: datetime
    expires_at: datetime
    published_by: str
    message: str
    policy_count: int
    content_size: int
    content_digest: str
    kind: RevisionKind = RevisionKind.UNKNOWN
    restores_version: int = 0
    min_version: int = 0

    @classmethod
    def from_proto(cls, details: pb.RevisionDetails) -> RevisionInfo:
        """Read a received message."""
        revision = details.revision
        return cls(
            scope=revision.scope,
            epoch=revision.epoch,
            version=revision.version,
            digest=revision.digest.hex(),
            published_at=utc(details.published_at),
            expires_at=utc(details.expires_at),
            published_by=details.published_by,
            message=details.message,
            policy_count=details.policy_count,
            content_size=details.content_size,
            content_digest=details.content_digest.hex(),
            kind=RevisionKind.from_proto(details.kind),
            restores_version=details.restores_version,
            min_version=details.min_version,
        )

    def to_json(self) -> dict[str, object]:
        """Return plain values; times as RFC 3339."""
        return {
            "scope": self.scope,
            "epoch": self.epoch,
            "version": self.version,
            "digest": self.digest,
            "published_at": rfc3339(self.published_at),
            "expires_at": rfc3339(self.expires_at),
            "published_by": self.published_by,
            "message": self.message,
            "policy_count": self.policy_count,
            "content_size": self.content_size,
            "content_digest": self.content_digest,
            "kind": self.kind.value,
            "restores_version": self.restores_version,
            "min_version": self.min_version,
        }


@dataclass(frozen=True, slots=True)
class Published:
    """The answer to a publish or a rollback.

    `repeated` if the same request had been answered before; `dry_run` if nothing was stored because no more was asked.
    `replaces` are permits of broader layers that the policies replace by their ids, `unshadows` those that the version
    before replaced and that count again, as `<scope>/<policy id>`; the counts are of all, also where these are too many
    to be named. `warnings` say what may not do what its author means; of a bundle that was signed elsewhere there are
    none.
    """

    revision: RevisionInfo
    repeated: bool
    dry_run: bool = False
    replaces: tuple[str, ...] = ()
    unshadows: tuple[str, ...] = ()
    replaces_count: int = 0
    unshadows_count: int = 0
    warnings: tuple[Problem, ...] = ()

    @classmethod
    def from_proto(cls, answer: pb.PublishResponse | pb.PublishEnvelopeResponse | pb.RollbackResponse) -> Published:
        """Read a received message."""
        return cls(
            RevisionInfo.from_proto(answer.revision),
            answer.repeated_request,
            answer.dry_run,
            tuple(answer.replaces),
            tuple(answer.unshadows),
            answer.replaces_count,
            answer.unshadows_count,
            problems_of(answer.warnings) if isinstance(answer, pb.PublishResponse) else (),
        )

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            **self.revision.to_json(),
            "repeated_request": self.repeated,
            "dry_run": self.dry_run,
            "replaces": list(self.replaces),
            "replaces_count": self.replaces_count,
            "unshadows": list(self.unshadows),
            "unshadows_count": self.unshadows_count,
            "warnings": [problem.to_json() for problem in self.warnings],
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """A bundle that lacks signatures, its content, and the newest root, which says whose signatures it needs."""

    envelope: SignedEnvelope
    root: SignedEnvelope
    current_version: int
    content: bytes


@dataclass(frozen=True, slots=True)
class FreezeState:
    """The current revision of an org after `set_freeze`; `changed` unless it was so already."""

    revision: RevisionInfo
    changed: bool


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """One policy of a revision: its id and its Cedar text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class RevisionContent:
    """A revision with what was signed for it and its policies. Nothing here is verified.

    `original` is there for a rollback: the signed manifest that it restores. `schema` is the schema that its content
    brings, None for none.
    """

    revision: RevisionInfo
    envelope: SignedEnvelope
    policies: tuple[PublishedPolicy, ...]
    original: SignedEnvelope | None = None
    schema: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return plain values; envelopes in their DSSE JSON form, `original` and `schema` only where there is one."""
        original: dict[str, object] = {} if self.original is None else {"original": self.original.to_dsse_json()}
        schema: dict[str, object] = {} if self.schema is None else {"schema": self.schema}
        return {
            "revision": self.revision.to_json(),
            "envelope": self.envelope.to_dsse_json(),
            **original,
            **schema,
            "policies": [{"id": policy.id, "text": policy.text} for policy in self.policies],
        }


def problems_of(problems: Iterable[pb.Problem]) -> tuple[Problem, ...]:
    """Return received mistakes."""
    return tuple(Problem(p.code, p.message, p.policy_id, p.source, p.line) for p in problems)


def utc(timestamp: Timestamp) -> datetime:
    """Return a received time."""
    return timestamp.ToDatetime(tzinfo=UTC)


def rfc3339(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, whole seconds: `2026-01-31T09:00:00Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
