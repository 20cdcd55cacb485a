"""A policy server's publishing side for tests of its callers: the real wire on a real socket, the engine's real checks.

Revisions are kept in memory, in one list for all scopes. Roots and prepared bundles are real: `org` (acme) has the
keys, and what is published for it is judged. `abort` fails every call with a status.
"""

# ruff: noqa: N802 - the names of the protocol
from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from akpolicy.bundle import encode_content
from akpolicy.client.server_errors import PROBLEMS_METADATA
from akpolicy.clock import SystemClock
from akpolicy.engine.caveats import caveats_of
from akpolicy.engine.check import check_policies
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText, split_policies
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import PolicyError, Problem, TrustError
from akpolicy.keys import AnchorSet, parse_anchor
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.strict_json import dump
from akpolicy.trust import Judge
from akpolicy.v1 import bundle_pb2, publishing_pb2_grpc
from akpolicy.v1 import publishing_pb2 as pb
from akpolicy.wire import envelope_from_proto, envelope_to_proto
from akpolicy.wire_authorization import OFFLINE_MODES
from akpolicy_server.api.problems import problem_messages
from tests.simulators.fleet import FleetSimulator
from tests.simulators.org import ConfiguredAnchor, OrgSimulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

API_KEY: Final = "ak_test_key"
OFFLINE_MODE_OF: Final = {number: mode.value for mode, number in OFFLINE_MODES.items()}
PUBLISHED_AT: Final = 1_800_000_000
DAY: Final = 86_400


@dataclass
class Revision:
    """What was published, and with which header."""

    details: pb.RevisionDetails
    header: pb.PublishHeader
    policies: list[PolicyText]
    envelope: SignedEnvelope | None = None


@dataclass
class RootChain:
    """The roots of an org, judged as hosts do."""

    judge: Judge
    envelopes: list[SignedEnvelope] = field(default_factory=list)

    def add(self, envelope: SignedEnvelope, now: float) -> None:
        """Take the next root; raise a `TrustError`."""
        self.judge.trust_root(envelope, now)
        self.envelopes.append(envelope)


@dataclass
class PublishingSimulator(FleetSimulator):
    """Serves `PublishingService` on a free port of 127.0.0.1, plaintext, for one API key."""

    abort: tuple[grpc.StatusCode, str] | None = None
    orgs: set[str] = field(default_factory=set)
    keys: list[pb.CreateApiKeyRequest] = field(default_factory=list)
    revisions: list[Revision] = field(default_factory=list)
    sources: dict[str, bytes] = field(default_factory=dict)
    online_keys: list[pb.CreateOnlineKeyRequest] = field(default_factory=list)
    rollbacks: list[pb.RollbackRequest] = field(default_factory=list)
    frozen: dict[str, bool] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    replaces: list[str] = field(default_factory=list)
    unshadows: list[str] = field(default_factory=list)
    org: OrgSimulator = field(default_factory=lambda: OrgSimulator("acme", SystemClock()))
    roots: dict[str, RootChain] = field(default_factory=dict)
    # What a server may do to whoever signs elsewhere: other fields, other policies.
    prepared_otherwise: dict[str, Any] = field(default_factory=dict)
    policies_instead: list[PolicyText] = field(default_factory=list)
    freeze_is_dropped: bool = False
    pages: int = 0
    url: str = ""

    def __enter__(self) -> Self:
        chain = RootChain(Judge(self.org.org, self.org.anchors))
        chain.add(self.org.root_envelope(), self.org.clock.now())
        self.roots[self.org.org] = chain
        self._schema = load_default_schema()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        publishing_pb2_grpc.add_PublishingServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def CreateOrg(self, request: pb.CreateOrgRequest, context: grpc.ServicerContext) -> pb.CreateOrgResponse:
        """Remember an org; with root keys, hand out its first root to be signed."""
        self._admit(context)
        if request.org in self.orgs:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"org `{request.org}` exists")
        self.orgs.add(request.org)
        if not request.root_keys:
            return pb.CreateOrgResponse(org=request.org, trust_anchor="ed25519:AAAA", root_version=1)
        return self._pending(request)

    def CreateOnlineKey(
        self, request: pb.CreateOnlineKeyRequest, context: grpc.ServicerContext
    ) -> pb.CreateOnlineKeyResponse:
        """Remember what was asked for; answer with the simulated org's key of that role."""
        self._admit(context)
        self.online_keys.append(request)
        signer = {
            pb.ONLINE_ROLE_BUNDLE: self.org.bundle_signer if request.org else self.org.platform_signer,
            pb.ONLINE_ROLE_ROLLBACK: self.org.rollback_signer,
            pb.ONLINE_ROLE_HEARTBEAT: self.org.heartbeat_signer,
        }[request.role]
        return pb.CreateOnlineKeyResponse(public_key=signer.public_key.anchor, key_id=signer.public_key.key_id)

    def GetRoots(self, request: pb.GetRootsRequest, context: grpc.ServicerContext) -> Iterator[pb.GetRootsResponse]:
        """Send an org's roots, oldest first."""
        self._admit(context)
        if request.org not in self.roots:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no org `{request.org}`")
        numbered = list(enumerate(self.roots[request.org].envelopes, start=1))
        for version, envelope in numbered[-1:] if request.newest_only else numbered:
            if version > request.after_version:
                yield pb.GetRootsResponse(version=version, envelope=envelope_to_proto(envelope))

    def PublishRoot(self, request: pb.PublishRootRequest, context: grpc.ServicerContext) -> pb.PublishRootResponse:
        """Judge and keep the next root; the scopes in `dropped` are reported."""
        self._admit(context)
        chain = self.roots[request.org]
        envelope = envelope_from_proto(request.envelope)
        repeated = envelope in chain.envelopes[-1:]
        if not repeated:
            try:
                root = chain.judge.judge_root(envelope, self.org.clock.now())
            except TrustError as error:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            if request.dry_run:
                return pb.PublishRootResponse(version=root.document.version, dropped=self.dropped)
            chain.add(envelope, self.org.clock.now())
        return pb.PublishRootResponse(
            version=len(chain.envelopes),
            repeated_request=repeated,
            signed_anew=[] if repeated else [revision.details.revision for revision in self.revisions[-1:]],
            dropped=self.dropped,
        )

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
        return pb.ValidateResponse(problems=problem_messages(problems), policy_ids=ids, policy_count=len(ids))

    def Publish(
        self, request_iterator: Iterator[pb.PublishRequest], context: grpc.ServicerContext
    ) -> pb.PublishResponse:
        """Check policies with the engine and keep them."""
        self._admit(context)
        header, policies = self._receive(request_iterator, context)
        details = self._details(header, len(policies))
        if not header.dry_run:
            self.revisions.append(Revision(details, header, policies))
        told = {"warnings": problem_messages(caveats_of(policies)), **_replacements(self)}
        return pb.PublishResponse(revision=details, dry_run=header.dry_run, **told)

    def PrepareBundle(
        self, request_iterator: Iterator[pb.PrepareBundleRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.PrepareBundleResponse]:
        """Check policies with the engine; send the bundle to be signed, then its content."""
        self._admit(context)
        header, policies = self._receive(request_iterator, context)
        policies = self.policies_instead or policies
        content = encode_content([(policy.id, policy.text) for policy in policies])
        version = len(self.revisions) + 1
        document = self.org.manifest_document(header.scope, content, len(policies), version=version)
        _set_terms(document, header)
        document |= self.prepared_otherwise
        prepared = pb.PreparedBundle(
            envelope=bundle_pb2.Envelope(payload_type=PayloadType.BUNDLE, payload=dump(document)),
            root=envelope_to_proto(self.roots[self.org.org].envelopes[-1]),
            current_version=version - 1,
        )
        yield pb.PrepareBundleResponse(prepared=prepared)
        for start in range(0, len(content), MAX_CHUNK_BYTES):
            yield pb.PrepareBundleResponse(content=content[start : start + MAX_CHUNK_BYTES])

    def PublishEnvelope(
        self, request_iterator: Iterator[pb.PublishEnvelopeRequest], context: grpc.ServicerContext
    ) -> pb.PublishEnvelopeResponse:
        """Judge a bundle as hosts do and keep it."""
        self._admit(context)
        header = next(request_iterator).header
        content = b"".join(part.content for part in request_iterator)
        envelope = envelope_from_proto(header.envelope)
        judge = self.roots[self.org.org].judge
        try:
            bundle = judge.judge_content(judge.judge_manifest(envelope, self.org.clock.now()), content)
        except TrustError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        assert bundle.content is not None
        policies = [PolicyText(p.id, p.text, "content", 1) for p in bundle.content.content.policies]
        as_header = pb.PublishHeader(
            scope=bundle.manifest.scope, message=header.message, idempotency_key=header.idempotency_key
        )
        details = self._details(as_header, len(policies))
        if not header.dry_run:
            self.revisions.append(Revision(details, as_header, policies, envelope))
        return pb.PublishEnvelopeResponse(revision=details, dry_run=header.dry_run)

    def Rollback(self, request: pb.RollbackRequest, context: grpc.ServicerContext) -> pb.RollbackResponse:
        """Publish the policies of an earlier revision again."""
        self._admit(context)
        self.rollbacks.append(request)
        target = request.to_version or len(self.revisions) - 1
        if not 0 < target < len(self.revisions):
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no version {target} of `{request.scope}`")
        policies = self.revisions[target - 1].policies
        header = pb.PublishHeader(scope=request.scope, message=request.message)
        details = self._details(header, len(policies), pb.REVISION_KIND_ROLLBACK)
        details.restores_version = target
        if not request.dry_run:
            self.revisions.append(Revision(details, header, policies))
        return pb.RollbackResponse(revision=details, dry_run=request.dry_run)

    def SetFreeze(self, request: pb.SetFreezeRequest, context: grpc.ServicerContext) -> pb.SetFreezeResponse:
        """Keep whether an org is frozen, and a revision for each change."""
        self._admit(context)
        changed = self.frozen.get(request.org, False) != request.frozen
        if not (changed or self.revisions):
            context.abort(grpc.StatusCode.NOT_FOUND, f"`{request.org}` has nothing to return to")
        self.frozen[request.org] = request.frozen
        if changed:
            kind = pb.REVISION_KIND_FREEZE if request.frozen else pb.REVISION_KIND_UNFREEZE
            header = pb.PublishHeader(scope=f"org/{request.org}", message=request.message)
            self.revisions.append(Revision(self._details(header, 1, kind), header, []))
        return pb.SetFreezeResponse(revision=self.revisions[-1].details, changed=changed)

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
        document = pb.RevisionDocument(details=revision.details, envelope=_envelope_of(revision))
        if revision.details.restores_version:
            document.original.CopyFrom(_envelope_of(self.revisions[revision.details.restores_version - 1]))
        yield pb.GetRevisionResponse(document=document)
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

    def _receive(
        self,
        messages: Iterator[pb.PublishRequest | pb.PrepareBundleRequest],
        context: grpc.ServicerContext,
    ) -> tuple[pb.PublishHeader, list[PolicyText]]:
        header = next(messages).header
        policies, problems = self._check(part.chunk for part in messages)
        if problems:
            failure = pb.PublishFailure(problems=problem_messages(problems))
            context.set_trailing_metadata(((PROBLEMS_METADATA, failure.SerializeToString()),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, problems[0].message)
        current = len(self.revisions)
        if header.HasField("expected_version") and header.expected_version != current:
            context.abort(grpc.StatusCode.ABORTED, f"`{header.scope}` is at version {current}")
        return header, policies

    def _pending(self, request: pb.CreateOrgRequest) -> pb.CreateOrgResponse:
        anchors = AnchorSet.parse([ConfiguredAnchor(key) for key in request.root_keys], request.root_threshold or 1)
        self.roots[request.org] = RootChain(Judge(request.org, anchors))
        org = OrgSimulator(request.org, self.org.clock)
        document = org.root_document()
        for text in request.root_keys:
            entry = {**org.key_entry(org.root_signer), "public_key": text.removeprefix("ed25519:")}
            document["keys"][parse_anchor(text).key_id] = entry
        key_ids = [parse_anchor(text).key_id for text in request.root_keys]
        document["roles"]["root"] = {"keys": key_ids, "threshold": anchors.threshold}
        unsigned = bundle_pb2.Envelope(payload_type=PayloadType.ROOT, payload=dump(document))
        return pb.CreateOrgResponse(org=request.org, trust_anchor=request.root_keys[0], unsigned_root=unsigned)

    def _details(
        self,
        header: pb.PublishHeader,
        policies: int,
        kind: pb.RevisionKind.ValueType = pb.REVISION_KIND_PUBLISH,
    ) -> pb.RevisionDetails:
        version = len(self.revisions) + 1
        digest = hashlib.sha256(str(version).encode()).digest()
        details = pb.RevisionDetails(
            revision=bundle_pb2.Revision(scope=header.scope, epoch=1, version=version, digest=digest),
            published_by="k_1",
            message=header.message,
            policy_count=policies,
            content_size=sum(map(len, self.sources.values())),
            content_digest=digest,
            kind=kind,
            min_version=version if header.no_rollback else max(1, version - 1),
        )
        details.published_at.FromSeconds(PUBLISHED_AT)
        details.expires_at.FromSeconds(PUBLISHED_AT + (header.lifetime_s or 30 * DAY))
        return details


def _replacements(server: PublishingSimulator) -> dict[str, Any]:
    counts = {"replaces_count": len(server.replaces), "unshadows_count": len(server.unshadows)}
    return {"replaces": server.replaces[:1000], "unshadows": server.unshadows[:1000], **counts}


def _set_terms(document: dict[str, Any], header: pb.PublishHeader) -> None:
    """Write into a manifest what was asked for."""
    if header.offline_mode:
        document["offline"]["mode"] = OFFLINE_MODE_OF[header.offline_mode]
    if header.offline_max_age_s:
        document["offline"]["max_age_s"] = header.offline_max_age_s
    if header.no_rollback:
        document["min_version"] = document["version"]
    if header.lifetime_s:
        document["expires_at"] = document["issued_at"] + header.lifetime_s


def _envelope_of(revision: Revision) -> bundle_pb2.Envelope:
    if revision.envelope is not None:
        return envelope_to_proto(revision.envelope)
    return bundle_pb2.Envelope(
        payload_type=PayloadType.BUNDLE,
        payload=b"{}",
        signatures=[bundle_pb2.Signature(key_id="k", signature=b"s" * 64)],
    )
