"""Sessions on real sockets: what a runtime registers, what a sandbox may ask, and what nobody may."""

from __future__ import annotations

import base64
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from akpolicy.client import InvalidRequest, PolicyClient, Principal, Resource, SessionRefused
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from akpolicy_sidecar.api.authorization import MAX_QUESTION_STREAMS
from tests.integration.sidecar.process import CALL_DEADLINE_S, PERMIT, Sidecar, request, text
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.simulators.policy_server import PolicyServerSimulator

SERVICE = pb.DESCRIPTOR.services_by_name["AuthorizationService"]
# Inside a sandbox only a viewer's Attach is allowed; the runtime may do everything.
POLICIES = {
    "runtime": '@id("runtime") permit (principal, action, resource) when { context.source == "runtime" };',
    "inside": '@id("inside") permit (principal == AgentKernel::User::"acme/local/alice", '
    'action == AgentKernel::Action::"Attach", resource) when { context.source == "sandbox" };',
}
ALICE = Principal("alice", "acme")
BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})


@pytest.fixture
def deciding(sidecar: Sidecar, server: PolicyServerSimulator) -> Sidecar:
    server.publish(POLICIES)
    sidecar.start().wait_reason("PERMITTED")
    return sidecar


@pytest.fixture
def runtime(deciding: Sidecar) -> Iterator[PolicyClient]:
    with PolicyClient(deciding.socket, timeout=CALL_DEADLINE_S) as client:
        yield client


def inside_of(sidecar: Sidecar) -> Path:
    return sidecar.socket.with_name("session.sock")


@pytest.fixture
def sandbox(deciding: Sidecar) -> Iterator[PolicyClient]:
    with PolicyClient(inside_of(deciding), timeout=CALL_DEADLINE_S) as client:
        yield client


def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Return the status that a call ends with, and the name of the error."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    # What a call raises is a `grpc.Call` too; only the types do not say so.
    error: Any = caught.value
    return error.code(), dict(error.trailing_metadata() or ()).get("akpolicy-error", "")


def test_a_sandbox_asks_by_its_token_and_policies_can_tell(
    deciding: Sidecar, runtime: PolicyClient, sandbox: PolicyClient
) -> None:
    session = runtime.open_session(ALICE, BOX)

    assert session.authorize("Run").determining[0].policy_id == "runtime"
    assert sandbox.authorize_session(session.token, "Attach").determining[0].policy_id == "inside"
    assert not sandbox.authorize_session(session.token, "Run").allowed
    record = deciding.records()[-1]
    assert (record["principal"], record["resource"], record["sandbox"]) == ("acme/local/alice", "acme/box", "box")
    assert deciding.metric("akpolicy_sidecar_sessions") == 1


def test_a_sandbox_cannot_say_who_it_is_nor_where_it_asks_from(runtime: PolicyClient, sandbox: PolicyClient) -> None:
    session = runtime.open_session(ALICE, BOX)

    with pytest.raises(InvalidRequest, match="source"):
        sandbox.authorize_session(session.token, "Attach", {"source": "runtime"})


@pytest.mark.parametrize("which", ["principal", "resource"])
def test_a_token_beside_an_identity_is_refused(deciding: Sidecar, runtime: PolicyClient, which: str) -> None:
    token = runtime.open_session(ALICE, BOX).token
    message = request(session_token=token)
    message.ClearField("resource" if which == "principal" else "principal")
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        assert status_of(lambda: stub.Authorize(message, timeout=CALL_DEADLINE_S))[0].name == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "token", ["x", "A" * 43, base64.urlsafe_b64encode(bytes(32)).decode().rstrip("="), "\u0301" * 43]
)
def test_a_forged_token_is_refused(deciding: Sidecar, token: str) -> None:
    for socket in (deciding.socket, inside_of(deciding)):
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
            message = pb.AuthorizeRequest(session_token=token, action="Attach")
            status = status_of(lambda stub=stub, message=message: stub.Authorize(message, timeout=CALL_DEADLINE_S))
            assert status == (grpc.StatusCode.UNAUTHENTICATED, "SessionUnknown")


def test_a_closed_session_is_refused_and_not_opened_anew(runtime: PolicyClient) -> None:
    session = runtime.open_session(ALICE, BOX)
    session.close()

    with pytest.raises(SessionRefused) as caught:
        session.authorize("Run")

    assert caught.value.reason == "SessionClosed"
    assert not session.is_allowed("Run")


def test_a_restart_ends_sessions_and_the_runtime_opens_them_anew(deciding: Sidecar, runtime: PolicyClient) -> None:
    session = runtime.open_session(ALICE, BOX)
    before = session.token
    deciding.stop()
    deciding.ready_file.unlink(missing_ok=True)
    deciding.start().wait_reason("PERMITTED")
    wait_until(runtime.ready, what="the runtime's connection")

    with PolicyClient(inside_of(deciding), timeout=CALL_DEADLINE_S) as sandbox:
        with pytest.raises(SessionRefused) as caught:
            sandbox.authorize_session(before, "Attach")
        assert caught.value.reason == "SessionUnknown"
        assert session.authorize("Run").allowed
        assert session.token != before
        assert sandbox.authorize_session(session.token, "Attach").allowed


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_the_session_socket_takes_nothing_but_questions_of_sessions(deciding: Sidecar, method: str) -> None:
    found = SERVICE.methods_by_name[method]
    with grpc.insecure_channel(f"unix:{inside_of(deciding)}") as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        if found.client_streaming:
            message = pb.StreamAuthorizeRequest(id=1, request=request())
            status = status_of(lambda: list(stub.StreamAuthorize(iter([message]), timeout=CALL_DEADLINE_S)))
        else:
            empty = request() if method == "Authorize" else getattr(pb, found.input_type.name)()
            status = status_of(lambda: getattr(stub, method)(empty, timeout=CALL_DEADLINE_S))

    assert status == (grpc.StatusCode.PERMISSION_DENIED, "SessionRequired")


@pytest.mark.parametrize(
    "method",
    ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/a/b", "/x"],
)
def test_the_session_socket_takes_no_other_service(deciding: Sidecar, method: str) -> None:
    with grpc.insecure_channel(f"unix:{inside_of(deciding)}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        status = status_of(lambda: call(health_pb2.HealthCheckRequest().SerializeToString(), timeout=CALL_DEADLINE_S))

    assert status == (grpc.StatusCode.PERMISSION_DENIED, "SessionRequired")


def test_a_sandbox_gets_no_explanation(deciding: Sidecar, runtime: PolicyClient) -> None:
    token = runtime.open_session(ALICE, BOX).token
    with grpc.insecure_channel(f"unix:{inside_of(deciding)}") as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        message = pb.AuthorizeRequest(session_token=token, action="Attach", explain=True)
        assert status_of(lambda: stub.Authorize(message, timeout=CALL_DEADLINE_S))[1] == "SessionRequired"


def test_a_looping_sandbox_is_refused_and_the_host_goes_on(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    sidecar.extra = "[sidecar.sessions]\nrate = 1\nburst = 5\n"
    server.publish(POLICIES)
    sidecar.start().wait_reason("PERMITTED")
    with (
        PolicyClient(sidecar.socket, timeout=CALL_DEADLINE_S) as runtime,
        PolicyClient(inside_of(sidecar), timeout=CALL_DEADLINE_S) as sandbox,
    ):
        looping, other = runtime.open_session(ALICE, BOX), runtime.open_session(ALICE, BOX)
        reasons = set()
        for _ in range(20):
            try:
                sandbox.authorize_session(looping.token, "Attach")
            except SessionRefused as error:
                reasons.add(error.reason)

        assert reasons == {"SessionRateLimited"}
        assert sandbox.authorize_session(other.token, "Attach").allowed
        assert sidecar.metric('akpolicy_sidecar_request_errors_total{status="RESOURCE_EXHAUSTED"}') > 0


def test_without_sessions_there_is_no_socket(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    sidecar.extra = "[sidecar.sessions]\nlisten = false\n"
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    assert not inside_of(sidecar).exists()
    assert sidecar.ready()["session_socket"] is None


def test_the_session_socket_is_for_every_user_of_the_host_and_goes_with_the_sidecar(deciding: Sidecar) -> None:
    socket = inside_of(deciding)

    assert oct(socket.stat().st_mode)[-3:] == "666"
    assert deciding.ready()["session_socket"] == str(socket)
    assert deciding.stop() == 0
    assert not socket.exists()


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_answers_in_order_and_goes_on_after_what_cannot_be_judged(deciding: Sidecar) -> None:
    wrong = request(action="Fly")
    unset = request()
    unset.context["x"].CopyFrom(pb.Value())
    questions = [request(), wrong, request(action="Run"), pb.AuthorizeRequest(session_token="no"), unset, request()]
    messages = [pb.StreamAuthorizeRequest(id=100 - n, request=one) for n, one in enumerate(questions)]
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        answers = list(stub.StreamAuthorize(iter(messages), timeout=CALL_DEADLINE_S))

    assert [answer.id for answer in answers] == [message.id for message in messages]
    kinds = [answer.error.status or answer.response.decision.effect for answer in answers]
    allow = pb.EFFECT_ALLOW
    assert kinds == [allow, "INVALID_ARGUMENT", allow, "UNAUTHENTICATED", "INVALID_ARGUMENT", allow]
    assert answers[3].error.code == "SessionUnknown"


def questions(until: threading.Event) -> Iterator[pb.StreamAuthorizeRequest]:
    """Ask one question and stay."""
    yield pb.StreamAuthorizeRequest(id=1, request=request())
    until.wait(CALL_DEADLINE_S * 2)


def test_a_stream_that_stays_open_does_not_hold_up_the_end_of_the_sidecar(deciding: Sidecar) -> None:
    end = threading.Event()
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        stream = stub.StreamAuthorize(questions(end), timeout=CALL_DEADLINE_S * 2)
        assert next(stream).response.decision.effect == pb.EFFECT_ALLOW
        assert deciding.stop() == 0
        status = status_of(lambda: next(stream))[0]
        end.set()

    assert status in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


def test_only_so_many_streams_are_open(deciding: Sidecar) -> None:
    end = threading.Event()
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        streams = [stub.StreamAuthorize(questions(end), timeout=CALL_DEADLINE_S) for _ in range(MAX_QUESTION_STREAMS)]
        try:
            for stream in streams:
                next(stream)
            status = status_of(lambda: list(stub.StreamAuthorize(questions(end), timeout=CALL_DEADLINE_S)))
            assert status == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TooManyQuestionStreams")
            assert deciding.ask(request()).effect == pb.EFFECT_ALLOW
        finally:
            end.set()


def test_the_attribute_values_of_a_session_are_checked_when_it_is_opened(deciding: Sidecar) -> None:
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        resource = pb.Resource(id="box", attributes={"agent_type": text("claude"), "runtime": pb.Value(long_value=3)})
        message = pb.OpenSessionRequest(principal=pb.Principal(id="alice", org_id="acme"), resource=resource)
        with pytest.raises(grpc.RpcError) as caught:
            stub.OpenSession(message, timeout=CALL_DEADLINE_S)

    assert "runtime" in str(caught.value)
