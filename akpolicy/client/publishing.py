"""The client for operators: orgs, API keys and policies on the policy server.

Rules:

- Every call carries the API key; it appears in no message.
- A failed call is `ServerUnreachable` (nobody was reached, or the outcome is unknown) or `ServerRefused` (the server
  said no, with its status, its message and the mistakes in the policies).
- Nothing is repeated behind the caller's back. To repeat a publish safely, use the same idempotency key.
- Policy text goes up in chunks that end between characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypedDict

import grpc

from akpolicy.client.channel import ServerEndpoint, bearer, open_channel
from akpolicy.client.publishing_types import (
    CreatedApiKey,
    CreatedOrg,
    Published,
    PublishedPolicy,
    PublishTerms,
    RevisionContent,
    RevisionInfo,
    Validation,
    utc,
)
from akpolicy.client.server_errors import problems_of, server_failure
from akpolicy.errors import BadAnswer
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import publishing_pb2 as pb
from akpolicy.v1.publishing_pb2_grpc import PublishingServiceStub
from akpolicy.wire import envelope_from_proto
from akpolicy.wire_authorization import OFFLINE_MODES

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from akpolicy.engine.files import PolicyFile

DEFAULT_TIMEOUT_S: Final = 60.0
PAGE_SIZE: Final = 500

_LONGEST_CHARACTER: Final = 4  # bytes of a character in UTF-8 (RFC 3629)

# Called with the number of bytes that just went up.
Progress = Callable[[int], None]


class _CallTerms(TypedDict):
    metadata: tuple[tuple[str, str], ...]
    timeout: float


class PublishingClient:
    """Talks to the policy server with one API key. Use it in a `with` statement.

    `timeout` is the deadline of each call in seconds. Raises `ConfigError` for files or a key that cannot be used; the
    methods raise `ServerUnreachable`, `ServerRefused` and `BadAnswer` (what answered is no akpolicy server).
    """

    def __init__(self, endpoint: ServerEndpoint, api_key: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self._endpoint = endpoint
        self._metadata = bearer(api_key)
        self._timeout = timeout
        self._channel = open_channel(endpoint)
        self._stub = PublishingServiceStub(self._channel)

    def create_org(self, org: str) -> CreatedOrg:
        """Create an org with its keys and first root."""
        with self._call():
            answer = self._stub.CreateOrg(pb.CreateOrgRequest(org=org), **self._terms)
        return CreatedOrg(answer.org, answer.trust_anchor, answer.root_version)

    def create_api_key(self, *, org: str, role: str, host_id: str = "", description: str = "") -> CreatedApiKey:
        """Create a key with the role `admin`, `publisher` or `host`; an empty `org` makes a platform key."""
        number = pb.ApiKeyRole.Value(f"API_KEY_ROLE_{role.upper()}")
        request = pb.CreateApiKeyRequest(org=org, role=number, host_id=host_id, description=description)
        with self._call():
            answer = self._stub.CreateApiKey(request, **self._terms)
        return CreatedApiKey(answer.key_id, answer.secret)

    def revoke_api_key(self, key_id: str) -> datetime:
        """Revoke a key for good; return since when it is revoked."""
        with self._call():
            answer = self._stub.RevokeApiKey(pb.RevokeApiKeyRequest(key_id=key_id), **self._terms)
        return utc(answer.revoked_at)

    def validate(self, scope: str, files: Sequence[PolicyFile], progress: Progress | None = None) -> Validation:
        """Ask what is wrong with policies; nothing is changed."""

        def parts() -> Iterator[pb.ValidateRequest]:
            yield pb.ValidateRequest(header=pb.ValidateHeader(scope=scope))
            for chunk in chunks(files, progress):
                yield pb.ValidateRequest(chunk=chunk)

        with self._call():
            answer = self._stub.Validate(parts(), **self._terms)
        return Validation(problems_of(answer.problems), tuple(answer.policy_ids), answer.policy_count)

    def publish(
        self, scope: str, files: Sequence[PolicyFile], terms: PublishTerms, progress: Progress | None = None
    ) -> Published:
        """Publish the whole policy of a scope; `ServerRefused` carries every mistake that the server names."""
        header = _header(scope, terms)

        def parts() -> Iterator[pb.PublishRequest]:
            yield pb.PublishRequest(header=header)
            for chunk in chunks(files, progress):
                yield pb.PublishRequest(chunk=chunk)

        with self._call():
            answer = self._stub.Publish(parts(), **self._terms)
        return Published(RevisionInfo.from_proto(answer.revision), answer.repeated_request)

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
        """Return one revision (0: the newest) with its signed manifest and its policies."""
        document: pb.RevisionDocument | None = None
        policies: list[PublishedPolicy] = []
        with self._call():
            for part in self._stub.GetRevision(pb.GetRevisionRequest(scope=scope, version=version), **self._terms):
                if part.HasField("document"):
                    document = part.document
                policies += [PublishedPolicy(policy.id, policy.text) for policy in part.policies.policies]
        if document is None:
            raise BadAnswer(f"the server's answer has no revision; is `{self._endpoint.target}` an akpolicy server?")
        return RevisionContent(
            RevisionInfo.from_proto(document.details), envelope_from_proto(document.envelope), tuple(policies)
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _terms(self) -> _CallTerms:
        return {"metadata": self._metadata, "timeout": self._timeout}

    @contextmanager
    def _call(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise server_failure(error, self._endpoint) from error


def chunks(files: Iterable[PolicyFile], progress: Progress | None = None) -> Iterator[pb.SourceChunk]:
    """Cut files into chunks of at most `MAX_CHUNK_BYTES` that end between characters; an empty file is one chunk."""
    for file in files:
        start = 0
        while start < len(file.data) or start == 0:
            end = _chunk_end(file.data, start)
            yield pb.SourceChunk(name=file.name, data=file.data[start:end])
            if progress is not None:
                progress(end - start)
            if end == len(file.data):
                break
            start = end


def _chunk_end(data: bytes, start: int) -> int:
    end = min(start + MAX_CHUNK_BYTES, len(data))
    if end == len(data):
        return end
    for candidate in range(end, end - _LONGEST_CHARACTER, -1):
        # 10xxxxxx continues a character (RFC 3629, section 3).
        if data[candidate] & 0xC0 != 0x80:  # noqa: PLR2004 - two bits of a byte
            return candidate
    return end  # not UTF-8; the server says so


def _header(scope: str, terms: PublishTerms) -> pb.PublishHeader:
    header = pb.PublishHeader(
        scope=scope,
        idempotency_key=terms.idempotency_key,
        message=terms.message,
        offline_max_age_s=terms.offline_max_age_s,
        lifetime_s=terms.lifetime_s,
        no_rollback=terms.no_rollback,
    )
    if terms.expected_version is not None:
        header.expected_version = terms.expected_version
    if terms.offline_mode is not None:
        header.offline_mode = OFFLINE_MODES[terms.offline_mode]
    return header
