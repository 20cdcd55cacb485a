"""What an operator gives to the policy server and gets from it.

Times are aware datetimes in UTC; digests are lower-case hex. `to_json` has stable names: the command line prints it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from akpolicy.bundle import OfflineMode
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import Problem
    from akpolicy.v1 import publishing_pb2 as pb


@dataclass(frozen=True, slots=True)
class PublishTerms:
    """Under which conditions to publish, as `PublishHeader` says; None and 0 are the server's defaults."""

    message: str = ""
    expected_version: int | None = None
    idempotency_key: str = ""
    offline_mode: OfflineMode | None = None
    offline_max_age_s: int = 0
    lifetime_s: int = 0
    no_rollback: bool = False


@dataclass(frozen=True, slots=True)
class CreatedOrg:
    """A new org; `trust_anchor` goes into the configuration of its sidecars."""

    org: str
    trust_anchor: str
    root_version: int


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new API key; the server keeps only a hash of `secret`."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        return f"CreatedApiKey(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class Validation:
    """What is wrong with policies (nothing: they can be published), how many there are, and the ids of the first."""

    problems: tuple[Problem, ...]
    policy_ids: tuple[str, ...]
    policy_count: int


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """One published revision of a scope. `digest` is that of the signed manifest; sizes are in bytes."""

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
        }


@dataclass(frozen=True, slots=True)
class Published:
    """The answer to a publish; `repeated` if the same idempotency key had published it before."""

    revision: RevisionInfo
    repeated: bool


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """One policy of a revision: its id and its Cedar text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class RevisionContent:
    """A revision with what was signed for it and its policies. Nothing here is verified."""

    revision: RevisionInfo
    envelope: SignedEnvelope
    policies: tuple[PublishedPolicy, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain values; the envelope in its DSSE JSON form."""
        return {
            "revision": self.revision.to_json(),
            "envelope": self.envelope.to_dsse_json(),
            "policies": [{"id": policy.id, "text": policy.text} for policy in self.policies],
        }


def utc(timestamp: Timestamp) -> datetime:
    """Return a received time."""
    return timestamp.ToDatetime(tzinfo=UTC)


def rfc3339(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, whole seconds: `2026-01-31T09:00:00Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
