"""The client for operators: orgs, keys, roots and policies on the policy server.

Rules:

- Every call carries the API key; it appears in no message.
- A failed call is `ServerUnreachable` (nobody was reached, or the outcome is unknown) or `ServerRefused` (the server
  said no, with its status, its message and the mistakes in the policies).
- Nothing is repeated behind the caller's back. To repeat a publish safely, use the same idempotency key.
- Nothing that the server sends is verified here; who signs a prepared document judges it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from akpolicy.client.fleet import FleetCalls
from akpolicy.client.publishing_call import DEFAULT_TIMEOUT_S
from akpolicy.client.publishing_orgs import OrgCalls
from akpolicy.client.publishing_types import (
    FreezeState,
    Prepared,
    Published,
    PublishedPolicy,
    PublishTerms,
    RevisionContent,
    RevisionInfo,
    Validation,
    problems_of,
)
from akpolicy.client.publishing_uploads import Progress, chunks, pieces, publish_header, schema_pieces
from akpolicy.limits import MAX_CONTENT_BYTES
from akpolicy.v1 import publishing_pb2 as pb
from akpolicy.wire import envelope_from_proto, envelope_to_proto

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from akpolicy.engine.files import PolicyFile
    from akpolicy.envelope import SignedEnvelope

__all__ = ["DEFAULT_TIMEOUT_S", "PAGE_SIZE", "Progress", "PublishingClient", "chunks"]

PAGE_SIZE: Final = 500


class PublishingClient(OrgCalls, FleetCalls):
    """Talks to the policy server with one API key. Use it in a `with` statement.

    `timeout` is the deadline of each call in seconds. Raises `ConfigError` for files or a key that cannot be used; the
    methods raise `ServerUnreachable`, `ServerRefused` and `BadAnswer` (what answered is no akpolicy server).
    """

    # --- publishing ---------------------------------------------------------------------------------------------------

    def validate(self, scope: str, files: Sequence[PolicyFile], progress: Progress | None = None) -> Validation:
        """Ask what is wrong with policies; nothing is changed."""

        def parts() -> Iterator[pb.ValidateRequest]:
            yield pb.ValidateRequest(header=pb.ValidateHeader(scope=scope))
            for chunk in chunks(files, progress):
                yield pb.ValidateRequest(chunk=chunk)

        with self._call():
            answer = self._stub.Validate(parts(), **self._terms)
        return Validation(
            problems_of(answer.problems), tuple(answer.policy_ids), answer.policy_count, problems_of(answer.warnings)
        )

    def publish(
        self, scope: str, files: Sequence[PolicyFile], terms: PublishTerms, progress: Progress | None = None
    ) -> Published:
        """Publish the whole policy of a scope; `ServerRefused` carries every mistake that the server names."""
        header = publish_header(scope, terms)

        def parts() -> Iterator[pb.PublishRequest]:
            yield pb.PublishRequest(header=header)
            for piece in schema_pieces(terms):
                yield pb.PublishRequest(schema=piece)
            for chunk in chunks(files, progress):
                yield pb.PublishRequest(chunk=chunk)

        with self._call():
            return Published.from_proto(self._stub.Publish(parts(), **self._terms))

    def prepare_bundle(
        self, scope: str, files: Sequence[PolicyFile], terms: PublishTerms, progress: Progress | None = None
    ) -> Prepared:
        """Return the bundle that `publish` would sign, to be signed elsewhere; nothing is stored."""
        header = publish_header(scope, terms)

        def parts() -> Iterator[pb.PrepareBundleRequest]:
            yield pb.PrepareBundleRequest(header=header)
            for piece in schema_pieces(terms):
                yield pb.PrepareBundleRequest(schema=piece)
            for chunk in chunks(files, progress):
                yield pb.PrepareBundleRequest(chunk=chunk)

        prepared: pb.PreparedBundle | None = None
        content = bytearray()
        with self._call():
            for part in self._stub.PrepareBundle(parts(), **self._terms):
                if part.HasField("prepared"):
                    prepared = part.prepared
                content += part.content
                if len(content) > MAX_CONTENT_BYTES:
                    raise self._bad_answer(f"has more than {MAX_CONTENT_BYTES} bytes of content")
        if prepared is None:
            raise self._bad_answer("has no bundle")
        return Prepared(
            envelope_from_proto(prepared.envelope),
            envelope_from_proto(prepared.root),
            prepared.current_version,
            bytes(content),
        )

    def publish_envelope(
        self,
        envelope: SignedEnvelope,
        content: bytes,
        *,
        message: str = "",
        idempotency_key: str = "",
        dry_run: bool = False,
    ) -> Published:
        """Publish a bundle that was signed elsewhere, with the content that it names."""
        header = pb.EnvelopeHeader(
            envelope=envelope_to_proto(envelope), idempotency_key=idempotency_key, message=message, dry_run=dry_run
        )

        def parts() -> Iterator[pb.PublishEnvelopeRequest]:
            yield pb.PublishEnvelopeRequest(header=header)
            for piece in pieces(content):
                yield pb.PublishEnvelopeRequest(content=piece)

        with self._call():
            return Published.from_proto(self._stub.PublishEnvelope(parts(), **self._terms))

    def rollback(
        self,
        scope: str,
        to_version: int = 0,
        *,
        expected_version: int | None = None,
        message: str = "",
        idempotency_key: str = "",
        dry_run: bool = False,
    ) -> Published:
        """Publish a new version with the content of an earlier one; 0 is the one before the current content."""
        request = pb.RollbackRequest(
            scope=scope,
            to_version=to_version,
            expected_version=expected_version,
            idempotency_key=idempotency_key,
            message=message,
            dry_run=dry_run,
        )
        with self._call():
            return Published.from_proto(self._stub.Rollback(request, **self._terms))

    def set_freeze(self, org: str, frozen: bool, message: str = "") -> FreezeState:
        """Make every host of an org deny everything, or end that."""
        request = pb.SetFreezeRequest(org=org, frozen=frozen, message=message)
        with self._call():
            answer = self._stub.SetFreeze(request, **self._terms)
        return FreezeState(RevisionInfo.from_proto(answer.revision), answer.changed)

    # --- reading ------------------------------------------------------------------------------------------------------

    def history(self, scope: str, limit: int) -> list[RevisionInfo]:
        """Return the newest revisions of a scope, newest first, at most `limit`."""
        found: list[RevisionInfo] = []
        token = ""
        while len(found) < limit:
            size = min(limit - len(found), PAGE_SIZE)
            request = pb.ListRevisionsRequest(scope=scope, page_size=size, page_token=token)
            with self._call():
                page = self._stub.ListRevisions(request, **self._terms)
            found += [RevisionInfo.from_proto(details) for details in page.revisions]
            token = page.next_page_token
            if not token or not page.revisions:
                break
        return found[:limit]

    def revision(self, scope: str, version: int = 0) -> RevisionContent:
        """Return one revision (0: the newest) with what was signed for it and its policies."""
        document: pb.RevisionDocument | None = None
        policies: list[PublishedPolicy] = []
        with self._call():
            for part in self._stub.GetRevision(pb.GetRevisionRequest(scope=scope, version=version), **self._terms):
                if part.HasField("document"):
                    document = part.document
                policies += [PublishedPolicy(policy.id, policy.text) for policy in part.policies.policies]
        if document is None:
            raise self._bad_answer("has no revision")
        return RevisionContent(
            RevisionInfo.from_proto(document.details),
            envelope_from_proto(document.envelope),
            tuple(policies),
            envelope_from_proto(document.original) if document.HasField("original") else None,
            document.schema or None,
        )
