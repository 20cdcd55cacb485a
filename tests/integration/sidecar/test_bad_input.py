"""Whatever a runtime sends: a clear status, no crash, no allow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.client import AsyncPolicyClient, AuthorizationRequest, Decision, PolicyClient, Principal, Resource
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from tests.integration.sidecar.process import CALL_DEADLINE_S, PERMIT, Sidecar, request, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulators.policy_server import PolicyServerSimulator

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def deciding(sidecar: Sidecar, server: PolicyServerSimulator) -> Sidecar:
    """A sidecar whose policies allow everything that they are asked."""
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    return sidecar


def context(**values: pb.Value) -> pb.AuthorizeRequest:
    message = request(action="Exec")
    message.context["command"].string_value = "ls"
    for name, value in values.items():
        message.context[name].CopyFrom(value)
    return message


def deep(levels: int) -> pb.Value:
    value = pb.Value(long_value=1)
    for _ in range(levels):
        value = pb.Value(record_value=pb.RecordValue(fields={"a": value}))
    return value


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field (Protocol Buffers, "Encoding")."""
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def deeper_than_messages(levels: int) -> bytes:
    """Return a request with records that no library would write."""
    value = b"\x10\x01"
    for _ in range(levels):
        value = _field(6, _field(1, _field(1, b"a") + _field(2, value)))
    return request().SerializeToString() + _field(4, _field(1, b"more") + _field(2, value))


def many_attributes() -> pb.AuthorizeRequest:
    message = request()
    for number in range(10_000):
        message.resource.attributes[f"a{number}"].long_value = number
    return message


def principal(**changes: Any) -> pb.AuthorizeRequest:
    message = request()
    for name, value in changes.items():
        if isinstance(value, list):
            getattr(message.principal, name).extend(value)
        else:
            setattr(message.principal, name, value)
    return message


def resource(**changes: Any) -> pb.AuthorizeRequest:
    message = request()
    for name, value in changes.items():
        setattr(message.resource, name, value)
    return message


def attribute(name: str, value: pb.Value) -> pb.AuthorizeRequest:
    message = request()
    message.resource.attributes[name].CopyFrom(value)
    return message


REFUSED: dict[str, Callable[[], pb.AuthorizeRequest]] = {
    "nothing at all": pb.AuthorizeRequest,
    "10,000 attributes": many_attributes,
    "a context value of 1 MB": lambda: context(more=text("x" * 1_000_000)),
    "a command of 1 MB": lambda: context(command=text("x" * 1_000_000)),
    "a context of 1 MB in small values": lambda: context(**{f"v{n}": text("x" * 1000) for n in range(1000)}),
    "records 20 deep": lambda: context(more=deep(20)),
    "a long where a text belongs": lambda: context(command=pb.Value(long_value=1)),
    "a set of mixed values": lambda: context(
        command=pb.Value(set_value=pb.SetValue(elements=[text("a"), pb.Value(bool_value=True)]))
    ),
    "a value without a kind": lambda: context(command=pb.Value()),
    "a broken address": lambda: attribute(
        "image", pb.Value(extension_value=pb.ExtensionValue(function="ip", argument="x"))
    ),
    "an unknown extension": lambda: attribute(
        "image", pb.Value(extension_value=pb.ExtensionValue(function="eval", argument="x"))
    ),
    "a reserved name": lambda: attribute("__entity", text("x")),
    "an unknown action": lambda: request(action="Fly"),
    "an action of 1 MB": lambda: request(action="x" * 1_000_000),
    "no action": lambda: request(action=""),
    "an unknown resource type": lambda: resource(type="Spaceship"),
    "a user as a resource": lambda: resource(type="User"),
    "a type with a namespace": lambda: resource(type="Other::Thing"),
    "no subject": lambda: principal(id=""),
    "a subject of 1 MB": lambda: principal(id="x" * 1_000_000),
    "1,000 roles": lambda: principal(roles=[f"r{n}" for n in range(1000)]),
    "1,000 teams": lambda: principal(teams=[f"t{n}" for n in range(1000)]),
    "an empty team": lambda: principal(teams=[""]),
    "the source": lambda: context(source=text("runtime")),
}


@pytest.fixture(scope="module")
def cases() -> dict[str, pb.AuthorizeRequest]:
    return {name: make() for name, make in REFUSED.items()}


def test_what_cannot_be_judged_is_refused_and_the_sidecar_goes_on(
    deciding: Sidecar, cases: dict[str, pb.AuthorizeRequest]
) -> None:
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        for name, message in cases.items():
            with pytest.raises(grpc.RpcError) as caught:
                stub.Authorize(message, timeout=CALL_DEADLINE_S)
            error: Any = caught.value
            assert error.code() is INVALID, (name, error)
            assert error.details(), name
            assert len(error.details()) <= 500, name
    assert deciding.ask().effect == pb.EFFECT_ALLOW
    assert "Traceback" not in deciding.output()


def test_a_batch_has_an_error_for_each_of_them_in_its_place(
    deciding: Sidecar, cases: dict[str, pb.AuthorizeRequest]
) -> None:
    small = [message for message in cases.values() if message.ByteSize() < 100_000]
    messages = [request(), *small, request(), request(explain=True)]
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        answer = stub.BatchAuthorize(pb.BatchAuthorizeRequest(requests=messages), timeout=CALL_DEADLINE_S)

    outcomes = [result.error.status or result.decision.effect for result in answer.results]
    assert outcomes == [pb.EFFECT_ALLOW, *["INVALID_ARGUMENT"] * len(small), pb.EFFECT_ALLOW, "INVALID_ARGUMENT"]


@pytest.mark.parametrize(
    "data",
    [
        request().SerializeToString().replace(b"alice", b"al\xff\xfee"),
        request().SerializeToString().replace(b"claude", b"\xc3\x28aude"),
        b"\xff" * 1000,
        request().SerializeToString()[:-3],
        b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 10,
        deeper_than_messages(10_000),
    ],
    ids=[
        "no UTF-8 in the subject",
        "no UTF-8 in a value",
        "noise",
        "cut off",
        "a length beyond the end",
        "10,000 levels",
    ],
)
def test_bytes_that_are_no_request_are_refused(deciding: Sidecar, data: bytes) -> None:
    with deciding.channel() as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/akpolicy.v1.AuthorizationService/Authorize"
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=CALL_DEADLINE_S)
    error: Any = caught.value

    assert error.code() in {INVALID, grpc.StatusCode.INTERNAL}
    assert deciding.ask().effect == pb.EFFECT_ALLOW


def test_a_message_over_the_limit_is_refused(deciding: Sidecar) -> None:
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Authorize(context(command=text("x" * 5_000_000)), timeout=CALL_DEADLINE_S)
    error: Any = caught.value

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "name", ["a\0b", "a\nb", 'a"b', "a\\b", "../x", "a/b", "é", "a%2Fb", " ", "\u202e", "a" * 1024]
)
def test_strange_names_are_only_names(deciding: Sidecar, name: str) -> None:
    message = request()
    message.principal.id = message.resource.id = name

    assert deciding.ask(message).effect == pb.EFFECT_ALLOW


# --- the clients ------------------------------------------------------------------------------------------------------

ALICE = Principal("alice", "acme")
BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})
WRONG = Resource("box", attributes={"agent_type": "\ud800", "runtime": "python"})
QUESTIONS = [
    AuthorizationRequest(ALICE, "Attach", BOX),
    AuthorizationRequest(ALICE, "Attach", WRONG),
    AuthorizationRequest(ALICE, "Fly", BOX),
    AuthorizationRequest(ALICE, "Attach", BOX),
    AuthorizationRequest(ALICE, "Attach", WRONG),
]
EXPECTED = [True, False, False, True, False]


def test_a_stream_of_the_client_has_an_answer_in_each_place(deciding: Sidecar) -> None:
    with PolicyClient(deciding.socket, timeout=CALL_DEADLINE_S) as client:
        answers = list(client.authorize_stream(QUESTIONS))

    assert [isinstance(answer, Decision) and answer.allowed for answer in answers] == EXPECTED


def test_a_stream_of_the_asyncio_client_has_an_answer_in_each_place(deciding: Sidecar) -> None:
    async def ask() -> list[bool]:
        async with AsyncPolicyClient(deciding.socket, timeout=CALL_DEADLINE_S) as client:
            return [
                isinstance(answer, Decision) and answer.allowed async for answer in client.authorize_stream(QUESTIONS)
            ]

    assert asyncio.run(ask()) == EXPECTED


async def until_ready(client: AsyncPolicyClient) -> None:
    for _ in range(1000):
        if await client.ready():
            return
    pytest.fail("the sidecar does not answer")


def test_a_session_of_the_asyncio_client_is_opened_anew_after_a_restart(deciding: Sidecar) -> None:
    async def ask() -> tuple[bool, bool, bool, bool]:
        async with AsyncPolicyClient(deciding.socket, timeout=CALL_DEADLINE_S) as client:
            session = await client.open_session(ALICE, BOX)
            before, token = await session.is_allowed("Attach"), session.token
            deciding.stop()
            deciding.ready_file.unlink(missing_ok=True)
            deciding.start().wait_reason("PERMITTED")
            await until_ready(client)
            after = await session.is_allowed("Attach")
            await session.close()
            return before, after, session.token != token, await session.is_allowed("Attach")

    assert asyncio.run(ask()) == (True, True, True, False)


def test_the_asyncio_client_explains_and_asks_for_permissions(deciding: Sidecar) -> None:
    async def ask() -> tuple[list[str], bool]:
        async with AsyncPolicyClient(deciding.socket, timeout=CALL_DEADLINE_S) as client:
            _, explanation = await client.explain(QUESTIONS[0])
            permissions = await client.get_permissions(ALICE, BOX, "moderate")
            return [policy.policy_id for policy in explanation.layers[0].applied], permissions.granted

    assert asyncio.run(ask()) == (["permit-all"], True)
