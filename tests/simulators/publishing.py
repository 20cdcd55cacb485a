"""A policy server's publishing side for tests of its callers: the real wire on a real socket, the engine's real checks.

Revisions are kept in memory; signatures are not real. `abort` fails every call with a status.
"""

# ruff: noqa: N802 - the names of the protocol
from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import grpc

from akpolicy.client.server_errors import PROBLEMS_METADATA
from akpolicy.engine.check import check_policies
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText, split_policies
from akpolicy.errors import PolicyError, Problem
from akpolicy.v1 import bundle_pb2, publishing_pb2_grpc
from akpolicy.v1 import publishing_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

API_KEY: Final = "ak_test_key"
PUBLISHED_AT: Final = 1_800_000_000
DAY: Final = 86_400


@dataclass
class Revision:
    """What was published, and with which header."""

    details: pb.RevisionDetails
    header: pb.PublishHeader
    policies: list[PolicyText]


@dataclass
class PublishingSimulator(publishing_pb2_grpc.PublishingServiceServicer):
    """Serves `PublishingService` on a free port of 127.0.0.1, plaintext, for one API key."""

    abort: tuple[grpc.StatusCode, str] | None = None
    orgs: set[str] = field(default_factory=set)
    keys: list[pb.CreateApiKeyRequest] = field(default_factory=list)
    revisions: list[Revision] = field(default_factory=list)
    sources: dict[str, bytes] = field(default_factory=dict)
    pages: int = 0
    url: str = ""

    def __enter__(self) -> Self:
        self._schema = load_default_schema()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        publishing_pb2_grpc.add_PublishingServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def CreateOrg(self, request: pb.CreateOrgRequest, context: grpc.ServicerContext) -> pb.CreateOrgResponse:
        """Remember an org."""
        self._admit(context)
        if request.org in self.orgs:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"org `{request.org}` exists")
        self.orgs.add(request.org)
        return pb.CreateOrgResponse(org=request.org, trust_anchor="ed25519:AAAA", root_version=1)

    def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: grpc.ServicerContext) -> pb.CreateApiKeyResponse:
        """Remember a key."""
        self._admit(context)
        self.keys.append(request)
        return pb.CreateApiKeyResponse(key_id="k_1", secret="ak_new_secret")

    def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: grpc.ServicerContext) -> pb.RevokeApiKeyResponse:
        """Know one key, `k_1`."""
        self._admit(context)
        if request.key_id != "k_1":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no API key `{request.key_id}`")
        answer = pb.RevokeApiKeyResponse()
        answer.revoked_at.FromSeconds(PUBLISHED_AT)
        return answer

    def Validate(
        self, request_iterator: Iterator[pb.ValidateRequest], context: grpc.ServicerContext
    ) -> pb.ValidateResponse:
        """Check policies with the engine."""
        self._admit(context)
        assert next(request_iterator).header.scope
        policies, problems = self._check(part.chunk for part in request_iterator)
        ids = [policy.id for policy in policies]
        return pb.ValidateResponse(problems=wire_problems(problems), policy_ids=ids, policy_count=len(ids))

    def Publish(
        self, request_iterator: Iterator[pb.PublishRequest], context: grpc.ServicerContext
    ) -> pb.PublishResponse:
        """Check policies with the engine and keep them."""
        self._admit(context)
        header = next(request_iterator).header
        policies, problems = self._check(part.chunk for part in request_iterator)
        if problems:
            failure = pb.PublishFailure(problems=wire_problems(problems))
            context.set_trailing_metadata(((PROBLEMS_METADATA, failure.SerializeToString()),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, problems[0].message)
        current = len(self.revisions)
        if header.HasField("expected_version") and header.expected_version != current:
            context.abort(grpc.StatusCode.ABORTED, f"`{header.scope}` is at version {current}")
        details = self._details(header, len(policies))
        self.revisions.append(Revision(details, header, policies))
        return pb.PublishResponse(revision=details)

    def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevisionsResponse:
        """List revisions, at most two a page."""
        self._admit(context)
        self.pages += 1
        start = int(request.page_token or 0)
        end = start + min(2, request.page_size)
        newest_first = self.revisions[::-1]
        token = str(end) if end < len(newest_first) else ""
        return pb.ListRevisionsResponse(
            revisions=[revision.details for revision in newest_first[start:end]], next_page_token=token
        )

    def GetRevision(
        self, request: pb.GetRevisionRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetRevisionResponse]:
        """Send a revision: its details, then one policy a message."""
        self._admit(context)
        if not self.revisions or request.version > len(self.revisions):
            context.abort(grpc.StatusCode.NOT_FOUND, f"`{request.scope}` has no version {request.version}")
        revision = self.revisions[(request.version or len(self.revisions)) - 1]
        envelope = bundle_pb2.Envelope(
            payload_type="application/vnd.akpolicy.bundle.v1+json",
            payload=b"{}",
            signatures=[bundle_pb2.Signature(key_id="k", signature=b"s" * 64)],
        )
        yield pb.GetRevisionResponse(document=pb.RevisionDocument(details=revision.details, envelope=envelope))
        for policy in revision.policies:
            yield pb.GetRevisionResponse(policies=pb.PolicyList(policies=[pb.Policy(id=policy.id, text=policy.text)]))

    def _admit(self, context: grpc.ServicerContext) -> None:
        if self.abort is not None:
            context.abort(*self.abort)
        metadata = dict(context.invocation_metadata())
        if metadata.get("authorization") != f"Bearer {API_KEY}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the API key is not valid")

    def _check(self, chunks: Iterable[pb.SourceChunk]) -> tuple[list[PolicyText], list[Problem]]:
        self.sources = {}
        for chunk in chunks:
            self.sources[chunk.name] = self.sources.get(chunk.name, b"") + chunk.data
        policies: list[PolicyText] = []
        problems: list[Problem] = []
        for name, data in self.sources.items():
            try:
                policies += split_policies(data.decode(), source=name)
            except PolicyError as error:
                problems += error.problems
        return policies, problems or list(check_policies(policies, self._schema))

    def _details(self, header: pb.PublishHeader, policies: int) -> pb.RevisionDetails:
        version = len(self.revisions) + 1
        digest = hashlib.sha256(str(version).encode()).digest()
        details = pb.RevisionDetails(
            revision=bundle_pb2.Revision(scope=header.scope, epoch=1, version=version, digest=digest),
            published_by="k_1",
            message=header.message,
            policy_count=policies,
            content_size=sum(map(len, self.sources.values())),
            content_digest=digest,
        )
        details.published_at.FromSeconds(PUBLISHED_AT)
        details.expires_at.FromSeconds(PUBLISHED_AT + (header.lifetime_s or 30 * DAY))
        return details


def wire_problems(problems: Iterable[Problem]) -> list[pb.Problem]:
    """Return problems as messages."""
    return [
        pb.Problem(code=p.code, message=p.message, policy_id=p.policy_id, source=p.source, line=p.line)
        for p in problems
    ]
