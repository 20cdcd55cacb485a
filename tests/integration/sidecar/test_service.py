"""What a sidecar answers on its listeners: decisions, batches, health, reflection, HTTP."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from tests.integration.sidecar.process import CALL_DEADLINE_S, FORBID, PERMIT, Sidecar, request
from tests.simulators.certificates import AuthoritySimulator
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.simulators.policy_server import PolicyServerSimulator

SERVICE = "akpolicy.v1.AuthorizationService"


@pytest.fixture
def deciding(sidecar: Sidecar, server: PolicyServerSimulator) -> Sidecar:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    return sidecar


@pytest.fixture
def stub(deciding: Sidecar) -> Iterator[authorization_pb2_grpc.AuthorizationServiceStub]:
    with deciding.channel() as channel:
        yield authorization_pb2_grpc.AuthorizationServiceStub(channel)


def batch(stub: authorization_pb2_grpc.AuthorizationServiceStub, count: int) -> pb.BatchAuthorizeResponse:
    message = pb.BatchAuthorizeRequest(requests=[request()] * count)
    return stub.BatchAuthorize(message, timeout=CALL_DEADLINE_S * 3)


def test_calls_that_never_send_their_message_do_not_stop_decisions(
    deciding: Sidecar, stub: authorization_pb2_grpc.AuthorizationServiceStub
) -> None:
    never = threading.Event()

    def nothing() -> Iterator[pb.AuthorizeRequest]:
        never.wait(CALL_DEADLINE_S)
        yield from ()

    with deciding.channel() as channel:
        # As a stream, a client may send headers and leave the message for later.
        begin = channel.stream_unary(
            f"/{SERVICE}/Authorize",
            request_serializer=pb.AuthorizeRequest.SerializeToString,
            response_deserializer=pb.AuthorizeResponse.FromString,
        )
        stalled = [begin.future(nothing()) for _ in range(16)]
        try:
            for _ in range(8):
                assert stub.Authorize(request(), timeout=CALL_DEADLINE_S).decision.effect == pb.EFFECT_ALLOW
        finally:
            never.set()
            for call in stalled:
                call.cancel()


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_out_of_bounds_is_refused(stub: authorization_pb2_grpc.AuthorizationServiceStub, count: int) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        batch(stub, count)

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"a batch has {count} requests" in str(refusal.value.details())


@pytest.mark.parametrize("count", [1, 1000])
def test_a_batch_has_one_result_a_request(stub: authorization_pb2_grpc.AuthorizationServiceStub, count: int) -> None:
    results = batch(stub, count).results

    assert len(results) == count
    assert len({result.decision.decision_id for result in results}) == count
    assert all(result.decision.effect == pb.EFFECT_ALLOW for result in results)


def test_a_request_that_cannot_be_judged_does_not_fail_its_batch(
    stub: authorization_pb2_grpc.AuthorizationServiceStub,
) -> None:
    requests = [request(), request(action="Fly"), request(principal=pb.Principal(id="m", org_id="other"))]

    results = stub.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests), timeout=CALL_DEADLINE_S).results

    assert results[0].decision.reason == pb.REASON_CODE_PERMITTED
    assert results[1].error.status == "INVALID_ARGUMENT"
    assert "Fly" in results[1].error.message
    assert results[2].decision.reason == pb.REASON_CODE_FOREIGN_ORG


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (pb.AuthorizeRequest(), "principal.org_id"),
        (request(action=""), "action"),
        (request(action="Fly"), "Fly"),
        (request(resource=pb.Resource(id="box")), "agent_type"),
        (request(principal=pb.Principal(org_id="acme")), "principal.id"),
    ],
)
def test_a_request_that_cannot_be_judged_names_what_is_wrong(
    deciding: Sidecar, message: pb.AuthorizeRequest, named: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        deciding.ask(message)

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in str(refusal.value.details())
    assert deciding.metric('akpolicy_sidecar_request_errors_total{status="INVALID_ARGUMENT"}') == 1


def test_a_message_over_the_limit_is_refused_and_the_next_is_answered(deciding: Sidecar) -> None:
    huge = request(action="x" * (5 * 1024 * 1024))

    with pytest.raises(grpc.RpcError) as refusal:
        deciding.ask(huge)

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert deciding.ask().effect == pb.EFFECT_ALLOW


def test_a_very_long_name_does_not_break_the_refusal(deciding: Sidecar) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        deciding.ask(request(action="\U0001f512" * 900))

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- health -----------------------------------------------------------------------------------------------------------


def health(sidecar: Sidecar, service: str = "") -> str:
    with sidecar.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_DEADLINE_S)
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_follows_whether_policy_can_decide(
    sidecar: Sidecar, server: PolicyServerSimulator, service: str
) -> None:
    sidecar.enterprise["offline_mode"] = "fail_closed"
    sidecar.start()
    assert health(sidecar, service) == "NOT_SERVING"

    server.publish(PERMIT)
    wait_until(lambda: health(sidecar, service) == "SERVING")
    assert sidecar.get("/readyz")[0] == 200

    server.stop()
    wait_until(lambda: health(sidecar, service) == "NOT_SERVING")
    assert sidecar.get("/readyz")[0] == 503
    assert sidecar.get("/healthz")[0] == 200


def test_reflection_lists_the_services(deciding: Sidecar) -> None:
    with deciding.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answer = next(stub.ServerReflectionInfo(asked, timeout=CALL_DEADLINE_S))

    names = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


# --- HTTP and TCP -----------------------------------------------------------------------------------------------------


def test_metrics_count_decisions_and_show_what_is_enforced(deciding: Sidecar, server: PolicyServerSimulator) -> None:
    labels = '{effect="allow",reason="permitted",source="live"}'
    before = deciding.metric(f"akpolicy_sidecar_decisions_total{labels}")

    deciding.ask()

    assert deciding.metric(f"akpolicy_sidecar_decisions_total{labels}") == before + 1
    assert deciding.metric('akpolicy_sidecar_bundle_version{scope="global"}') == 1
    assert deciding.metric('akpolicy_sidecar_policies{scope="global"}') == 1
    assert deciding.metric("akpolicy_sidecar_connected") == 1
    assert deciding.metric("akpolicy_sidecar_root_version") == 1
    assert deciding.metric("akpolicy_sidecar_fresh") == 1
    assert deciding.metric("akpolicy_sidecar_heartbeats_total") >= 1
    assert deciding.metric("akpolicy_sidecar_evidence_files") == 0
    issued_at = deciding.metric("akpolicy_sidecar_last_contact_timestamp_seconds")
    assert deciding.metric("akpolicy_sidecar_heartbeat_expiry_timestamp_seconds") > issued_at > 0

    server.publish(FORBID, scope="org/acme")
    deciding.wait_reason("FORBIDDEN")
    server.delete("org/acme")
    deciding.wait_reason("PERMITTED")
    assert 'scope="org/acme"' not in deciding.get("/metrics")[1]


def test_a_refused_update_is_counted_by_its_code(deciding: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(FORBID, signed_by=[server.org.bundle_signer])
    nack = server.wait_nack("KeyNotAuthorised")

    # What was enforced before was said before, and nothing else is.
    assert (list(nack.enforced), list(nack.ended)) == ([], [])
    assert deciding.metric('akpolicy_sidecar_update_refusals_total{code="KeyNotAuthorised"}') == 1
    assert deciding.ask().effect == pb.EFFECT_ALLOW


def test_tcp_is_served_over_tls_alone(sidecar: Sidecar, server: PolicyServerSimulator, tmp_path: Path) -> None:
    authority = AuthoritySimulator(tmp_path)
    sidecar.serve_tcp(authority.issue("host"))
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    target = sidecar.ready()["tcp"]

    credentials = grpc.ssl_channel_credentials(authority.ca_file.read_bytes())
    with grpc.secure_channel(target, credentials) as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        assert stub.Authorize(request(), timeout=CALL_DEADLINE_S).decision.effect == pb.EFFECT_ALLOW
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as refusal:
        authorization_pb2_grpc.AuthorizationServiceStub(channel).Authorize(request(), timeout=CALL_DEADLINE_S)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
