"""GetPermissions on a real socket: what is asked, what is recorded, and what is no question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from akpolicy.client import InvalidRequest, Permissions, PolicyClient, Principal, Resource
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.v1 import authorization_pb2_grpc
from tests.integration.sidecar.process import CALL_DEADLINE_S, Sidecar, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulators.policy_server import PolicyServerSimulator

POLICIES = {
    "run": '@id("run") @max_memory_mb("1024") permit (principal, action, resource) when { principal.mfa_verified };',
    "big": '@id("big") forbid (principal, action == AgentKernel::Action::"Run", resource) when '
    "{ resource has max_cpu_percent && resource.max_cpu_percent > 100 };",
    "no-network": '@id("no-network") forbid (principal, action == AgentKernel::Action::"Network", resource);',
}
ALICE = Principal("alice", "acme", mfa_verified=True)
BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})


@pytest.fixture
def deciding(sidecar: Sidecar, server: PolicyServerSimulator) -> Sidecar:
    server.publish(POLICIES)
    sidecar.start().wait_reason("NO_PERMIT")
    return sidecar


@pytest.fixture
def runtime(deciding: Sidecar) -> Iterator[PolicyClient]:
    with PolicyClient(deciding.socket, timeout=CALL_DEADLINE_S) as client:
        yield client


def test_a_profile_is_restricted_by_named_policies_and_every_question_is_recorded(
    deciding: Sidecar, runtime: PolicyClient
) -> None:
    before = len(deciding.records())

    answer = runtime.get_permissions(ALICE, BOX, "permissive", cwd="/src", home="/root")

    assert answer.granted
    assert answer.permissions == Permissions(mount_cwd=True, mount_home=True, max_memory_mb=1024)
    assert {one.field: one.policy for one in answer.restrictions} == {
        "network": "global/no-network",
        "pass_env": "",
        "max_memory_mb": "global/run",
    }
    asked = [(one.action, one.host_path) for one in answer.decisions]
    assert asked == [("Create", ""), ("Run", ""), ("Network", ""), ("Mount", "/src"), ("Mount", "/root")]
    recorded = [record["decision_id"] for record in deciding.records()[before:]]
    assert recorded == [one.decision.decision_id for one in answer.decisions]


def test_policies_see_what_is_asked_for_and_not_what_is_stated(runtime: PolicyClient) -> None:
    stated = Resource("box", attributes={**BOX.attributes, "max_cpu_percent": 50, "network": False})

    refused = runtime.get_permissions(ALICE, stated, Permissions(max_cpu_percent=400))
    granted = runtime.get_permissions(ALICE, stated, Permissions())

    assert [(one.field, one.policy) for one in refused.restrictions] == [("Run", "global/big")]
    assert (refused.granted, granted.granted) == (False, True)


def test_another_org_gets_nothing(runtime: PolicyClient) -> None:
    answer = runtime.get_permissions(Principal("alice", "other"), BOX, "moderate")

    assert not answer.granted
    assert {one.field for one in answer.restrictions} == {"Create", "Run"}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"profile": pb.PROFILE_MODERATE, "requested": pb.Permissions()},
        {"profile": 99},
        {"requested": pb.Permissions(mount_cwd=True)},
        {"requested": pb.Permissions(mount_home=True), "paths": pb.MountPaths(home="relative")},
        {"requested": pb.Permissions(max_memory_mb=0)},
        {"requested": pb.Permissions(max_memory_mb=2**63)},
        {"requested": pb.Permissions(), "principal": pb.Principal(org_id="acme")},
    ],
)
def test_what_is_no_question_is_refused(deciding: Sidecar, wrong: dict[str, Any]) -> None:
    good = {
        "principal": pb.Principal(id="alice", org_id="acme"),
        "resource": pb.Resource(id="box", attributes={"agent_type": text("claude"), "runtime": text("python")}),
    }
    with deciding.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetPermissions(pb.GetPermissionsRequest(**{**good, **wrong}), timeout=CALL_DEADLINE_S)

    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error


def test_an_unknown_profile_is_refused_before_it_is_sent(runtime: PolicyClient) -> None:
    with pytest.raises(InvalidRequest, match="moderate"):
        runtime.get_permissions(ALICE, BOX, "generous")
