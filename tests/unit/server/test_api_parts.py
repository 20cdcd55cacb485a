"""The servicers' parts that need no connection: uploads, greetings, statuses, metadata."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from grpc import StatusCode

from akpolicy import errors
from akpolicy.decision import BundleVersion
from akpolicy.engine.files import PolicyFile
from akpolicy.errors import InvalidField, PermissionDenied, Problem, StreamProtocolError, Unauthenticated
from akpolicy.limits import MAX_CHUNK_BYTES, MAX_JSON_INT
from akpolicy.scope import MAX_SCOPE_CHARS
from akpolicy.v1 import bundle_pb2, distribution_pb2, publishing_pb2
from akpolicy_server.api.authentication import KeyAuthentication, bearer_of
from akpolicy_server.api.call import Calls
from akpolicy_server.api.greeting import MAX_ENFORCED, MAX_HELD_BLOBS, read_changes, read_enforced, read_greeting
from akpolicy_server.api.problems import MAX_METADATA_BYTES, METADATA_KEY, failure_metadata
from akpolicy_server.api.status import status_of
from akpolicy_server.api.upload import read_files, read_header
from akpolicy_server.listener import MAX_RECEIVED_BYTES
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.store.hosts import HostRevision
from akpolicy_server.threads import Threads
from akpolicy_sidecar.enforcement import NO_REVISIONS
from akpolicy_sidecar.said import MAX_ENDED, Said
from akpolicy_sidecar.session import MAX_DETAIL_CHARS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import ServicerContext

    from tests.unit.server.conftest import Core

HEADER = publishing_pb2.PublishRequest(header=publishing_pb2.PublishHeader(scope="org/acme"))


def _chunk(name: str, data: bytes) -> publishing_pb2.PublishRequest:
    return publishing_pb2.PublishRequest(chunk=publishing_pb2.SourceChunk(name=name, data=data))


def _read(*messages: publishing_pb2.PublishRequest) -> tuple[PolicyFile, ...]:
    async def stream() -> AsyncIterator[publishing_pb2.PublishRequest]:
        for message in messages:
            yield message

    async def read() -> tuple[PolicyFile, ...]:
        upload = stream()
        await read_header(upload)
        return await read_files(upload)

    return asyncio.run(read())


def test_consecutive_chunks_of_a_name_are_one_file() -> None:
    files = _read(HEADER, _chunk("a", b"1"), _chunk("a", b"2"), _chunk("b", b"3"))
    assert files == (PolicyFile("a", b"12"), PolicyFile("b", b"3"))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [_chunk("a", b"1")],
        [HEADER, HEADER],
        [HEADER, publishing_pb2.PublishRequest()],
        [HEADER, _chunk("a", b"1"), _chunk("b", b"2"), _chunk("a", b"3")],
    ],
)
def test_an_upload_out_of_order_is_refused(messages: list[publishing_pb2.PublishRequest]) -> None:
    with pytest.raises(StreamProtocolError):
        _read(*messages)


@pytest.mark.parametrize(
    "chunk",
    [_chunk("", b"1"), _chunk("x" * 256, b"1"), _chunk("a\nb", b"1"), _chunk("a", b"x" * (MAX_CHUNK_BYTES + 1))],
)
def test_a_chunk_out_of_bounds_is_refused(chunk: publishing_pb2.PublishRequest) -> None:
    with pytest.raises(InvalidField):
        _read(HEADER, chunk)


def test_an_upload_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akpolicy_server.api.upload.MAX_CONTENT_BYTES", 10)
    monkeypatch.setattr("akpolicy_server.api.upload.MAX_FILES", 2)
    assert len(_read(HEADER, _chunk("a", b"x" * 10))) == 1
    with pytest.raises(InvalidField, match="more than 10 bytes"):
        _read(HEADER, _chunk("a", b"x" * 6), _chunk("b", b"x" * 5))
    with pytest.raises(InvalidField, match="more than 2 files"):
        _read(HEADER, _chunk("a", b"1"), _chunk("b", b"2"), _chunk("c", b"3"))


# --- greetings --------------------------------------------------------------------------------------------------------


def _hello(**fields: object) -> distribution_pb2.Hello:
    values = {"org": "acme", "software_version": "0.1.0", "nonce": b"n" * 16} | fields
    return distribution_pb2.Hello(**values)  # type: ignore[arg-type]


def _revision(scope: str, digest: bytes = b"d" * 32, version: int = 1) -> bundle_pb2.Revision:
    return bundle_pb2.Revision(scope=scope, epoch=1, version=version, digest=digest)


def test_a_hello_within_bounds_is_taken() -> None:
    greeting = read_greeting(
        _hello(enforced=[_revision("global"), _revision("org/acme")], held_blobs=[b"b" * 32]), "acme"
    )
    assert [revision.scope for revision in greeting.enforced] == ["global", "org/acme"]
    assert greeting.held_blobs == {b"b" * 32}


@pytest.mark.parametrize(
    "fields",
    [
        {"software_version": ""},
        {"software_version": "x" * 65},
        {"nonce": b""},
        {"nonce": b"n" * 17},
        {"root_version": 2**63},
        {"held_blobs": [b"short"]},
        {"held_blobs": [b"b" * 32] * (MAX_HELD_BLOBS + 1)},
        {"enforced": [_revision("org/globex")]},
        {"enforced": [_revision("nonsense")]},
        {"enforced": [_revision("global"), _revision("global")]},
        {"enforced": [_revision("global", digest=b"")]},
        {"enforced": [_revision("global", version=2**63)]},
    ],
)
def test_a_hello_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidField):
        read_greeting(_hello(**fields), "acme")


def test_a_hello_for_another_org_is_refused() -> None:
    with pytest.raises(PermissionDenied, match="`globex`"):
        read_greeting(_hello(org="globex"), "acme")


def test_the_number_of_enforced_scopes_is_bounded() -> None:
    scopes = [_revision(f"org/acme/team/t{number}") for number in range(MAX_ENFORCED + 1)]
    assert len(read_enforced(scopes[:-1], "acme")) == MAX_ENFORCED
    with pytest.raises(InvalidField):
        read_enforced(scopes, "acme")


def test_what_ended_is_no_scope_that_is_enforced() -> None:
    answer = distribution_pb2.Ack(enforced=[_revision("global")], ended=["org/acme/team/a"])
    assert read_changes(answer, "acme") == {
        "global": HostRevision("global", 1, 1, b"d" * 32),
        "org/acme/team/a": None,
    }
    for wrong in (["global"], ["org/globex"], ["org/acme/team/"]):
        with pytest.raises(InvalidField):
            read_changes(distribution_pb2.Ack(enforced=[_revision("global")], ended=wrong), "acme")


def test_the_largest_hello_answer_and_chunk_are_within_what_the_server_receives() -> None:
    org = "o" * 63
    team = MAX_SCOPE_CHARS - len(f"org/{org}/team/")
    scopes = [f"org/{org}/team/{number:0{team}}" for number in range(4000)]
    bundles = NO_REVISIONS
    for scope in scopes:
        bundles = bundles.put(scope, BundleVersion(scope, MAX_JSON_INT, MAX_JSON_INT, "d" * 64))
    said = Said()
    hello = _hello(
        org=org,
        software_version="x" * 64,
        root_version=MAX_JSON_INT,
        enforced=said.begin(bundles),
        held_blobs=[b"b" * 32] * MAX_HELD_BLOBS,
        index_digest=b"i" * 32,
    )
    assert 1000 < len(read_greeting(hello, org).enforced) < len(scopes)
    assert distribution_pb2.SubscribeRequest(hello=hello).ByteSize() < MAX_RECEIVED_BYTES
    enforced, _ = said.news(bundles.without(scopes[0]))
    assert len(enforced) > 500
    nack = distribution_pb2.Nack(
        code="x" * 64,
        detail="\U0001f600" * MAX_DETAIL_CHARS,
        policy_id="p" * 128,
        enforced=enforced,
        ended=scopes[:MAX_ENDED],
    )
    assert distribution_pb2.SubscribeRequest(nack=nack).ByteSize() < MAX_RECEIVED_BYTES
    assert distribution_pb2.SubscribeRequest(hello=hello).ByteSize() < MAX_RECEIVED_BYTES
    assert _chunk("x" * 255, b"x" * MAX_CHUNK_BYTES).ByteSize() < MAX_RECEIVED_BYTES


# --- statuses and metadata --------------------------------------------------------------------------------------------


def _concrete(kind: type[errors.AkpolicyError]) -> list[type[errors.AkpolicyError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _concrete(child))]


@pytest.mark.parametrize("kind", [*_concrete(errors.ServerError)[1:], *_concrete(errors.PolicyError)])
def test_every_refusal_has_a_status(kind: type[errors.AkpolicyError]) -> None:
    status = status_of(kind.__new__(kind))
    assert status not in (None, StatusCode.OK, StatusCode.INTERNAL, StatusCode.UNKNOWN)


def test_an_error_that_no_call_should_meet_has_none() -> None:
    assert status_of(errors.CacheCorrupt("x")) is None


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Basic abc")],
        [("authorization", "akp_1")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
    ],
)
def test_a_call_without_exactly_one_bearer_is_unauthenticated(metadata: list[tuple[str, str]]) -> None:
    with pytest.raises(Unauthenticated):
        bearer_of(metadata)


def test_a_bearer_is_read() -> None:
    assert bearer_of([("user-agent", "x"), ("authorization", "bearer  abc ")]) == "abc"


class _Sent:
    """A call's context, as far as authentication looks into it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._secret}")]


@pytest.mark.parametrize("secret", ["", "akp_", "akp_0123456789abcdef_short", "x" * 4000])
def test_what_has_not_the_form_of_a_key_is_refused_and_counted_without_a_thread(core: Core, secret: str) -> None:
    # No thread takes work any more: whatever needs one fails with something else.
    threads = Threads()
    threads.close()
    metrics = ServerMetrics()
    calls = Calls(KeyAuthentication(core.api_keys, threads, metrics), metrics, core.clock)
    with pytest.raises(Unauthenticated):
        asyncio.run(calls.authenticate(cast("ServicerContext[Any, Any]", _Sent(secret))))
    assert b'authentication_failures_total{reason="refused"} 1.0' in metrics.expose()[1]


def test_as_many_problems_as_fit_travel_in_metadata() -> None:
    problems = [Problem("PolicyParseError", "ä" * 400, f"p{number}", "a.cedar", number) for number in range(100)]
    ((name, data),) = failure_metadata(problems)
    assert name == METADATA_KEY
    assert len(data) <= MAX_METADATA_BYTES
    sent = publishing_pb2.PublishFailure.FromString(data).problems
    assert 1 < len(sent) < 100
    assert [problem.policy_id for problem in sent] == [f"p{number}" for number in range(len(sent))]


def test_one_huge_problem_is_cut_and_still_sent() -> None:
    ((_, data),) = failure_metadata([Problem("PolicyParseError", "x" * 100_000, "p")])
    assert len(publishing_pb2.PublishFailure.FromString(data).problems[0].message) == 500
