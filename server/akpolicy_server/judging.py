"""The server's own judgement: what no host of an org would accept is not published.

Rules:

- The judge is the hosts' (`akpolicy.trust.Judge`), given what a host that is up to date has: the org's newest root, and
  the marks of what its hosts were given last (`audience`).
- Content does not depend on the org. It is opened as hosts open it, once and before any transaction: parsing megabytes
  must not keep other writers waiting.
- A refusal names the org and keeps the judge's error as its class says it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from akpolicy.bundle import describe_content, encode_content, examine_content
from akpolicy.engine.files import permit_ids
from akpolicy.errors import InvalidField, TrustError
from akpolicy.limits import MAX_CONTENT_BYTES
from akpolicy.trust import refuse_ungranted
from akpolicy_server.audience import for_hosts
from akpolicy_server.contents import policies_in
from akpolicy_server.store.blobs import store_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection

    from akpolicy.bundle import ContentReference
    from akpolicy.engine.source import PolicyText
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import VerifiedManifest
    from akpolicy_server.audience import Member


class ContentToJudge(Protocol):
    """Content that is or will be stored."""

    @property
    def reference(self) -> ContentReference:
        """What a manifest says of it."""

    def permits(self) -> Sequence[str]:
        """Return the ids of its policies that permit."""

    def store(self, connection: Connection) -> None:
        """Keep it, unless it is kept."""


@dataclass(frozen=True, slots=True)
class ProposedContent:
    """New content that hosts would open: the blob, what a manifest says of it, the ids of its policies and permits."""

    blob: bytes
    reference: ContentReference
    ids: tuple[str, ...]
    permitting: tuple[str, ...]

    def permits(self) -> tuple[str, ...]:
        """Return the ids of its policies that permit."""
        return self.permitting

    def store(self, connection: Connection) -> None:
        """Keep it, unless it is kept."""
        store_blob(connection, bytes.fromhex(self.reference.digest), self.blob)


@dataclass(frozen=True, slots=True)
class StoredContent:
    """Content that was published before; it is read only where it matters what it permits."""

    reference: ContentReference
    read: Callable[[], bytes]

    def permits(self) -> tuple[str, ...]:
        """Return the ids of its policies that permit."""
        return permit_ids(policies_in(self.read()))

    def store(self, connection: Connection) -> None:
        """Do nothing: it is kept."""


def propose_content(policies: Sequence[PolicyText], schema: str | None = None) -> ProposedContent:
    """Return the content of a bundle with these policies, and a schema if it brings its own; opens no transaction.

    Raises `InvalidField` if it is too large, and the `TrustError` or `PolicyError` with which hosts would refuse it.
    """
    blob = encode_content([(policy.id, policy.text) for policy in policies], schema)
    if len(blob) > MAX_CONTENT_BYTES:
        raise InvalidField(f"the content would have {len(blob)} bytes, more than {MAX_CONTENT_BYTES}: split it")
    reference = describe_content(blob, len(policies))
    examine_content(blob, reference)
    return content_of(blob, reference, policies)


def content_of(blob: bytes, reference: ContentReference, policies: Sequence[PolicyText]) -> ProposedContent:
    """Return opened content with what its policies are."""
    return ProposedContent(blob, reference, tuple(policy.id for policy in policies), permit_ids(policies))


def judge_as_host(
    member: Member,
    envelope: SignedEnvelope,
    now: int,
    *,
    original: SignedEnvelope | None = None,
    held: bool = False,
) -> VerifiedManifest:
    """Return what a host of the org makes of a document; raise the `TrustError` with which it would refuse it.

    `now` is in epoch seconds; `held` as the judge has it: the host accepted the document before and keeps it. What the
    content permits is judged apart, by `refuse_ungranted_content`.
    """
    with refusals_of(member.org):
        return member.judge.judge_manifest(
            for_hosts(envelope, member.root),
            now,
            held=held,
            original=None if original is None else for_hosts(original, member.root),
        )


def refuse_ungranted_content(member: Member, verified: VerifiedManifest, content: ContentToJudge) -> None:
    """Raise `KeyNotAuthorised` if the content permits where the org's root lets the signers only forbid."""
    if not verified.grants:
        with refusals_of(member.org):
            refuse_ungranted(verified, content.permits())


@contextmanager
def refusals_of(org: str) -> Iterator[None]:
    """Say of a refusal whose hosts it would be."""
    try:
        yield
    except TrustError as error:
        raise type(error)(f"hosts of the org `{org}` would refuse it: {error.message}") from error
