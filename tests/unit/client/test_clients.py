"""Both clients: what a sidecar says arrives, and what it does not say is a denial."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from akpolicy.client import (
    AuthorizationRequest,
    BadAnswer,
    ClientError,
    DeadlineExceeded,
    Decision,
    InvalidRequest,
    PolicyClient,
    PolicySource,
    Principal,
    Reason,
    Resource,
    SidecarUnreachable,
)
from akpolicy.errors import ConfigError
from akpolicy.limits import MAX_BATCH
from akpolicy.v1 import authorization_pb2 as pb
from tests.simulators.sidecar import DECISION_ID, ORG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.sidecar import SidecarSimulator
    from tests.unit.client.conftest import Client, Connect

DEVELOPER = Principal("alice", ORG, roles=("developer",))
VIEWER = Principal("bob", ORG, roles=("viewer",))
BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})
CODEX = Resource("box", attributes={"agent_type": "codex", "runtime": "python"})

ALLOWED: dict[str, Any] = {"principal": DEVELOPER, "action": "Exec", "resource": BOX, "context": {"command": "pytest"}}
FORBIDDEN: dict[str, Any] = {**ALLOWED, "resource": CODEX}
INVALID: dict[str, Any] = {**ALLOWED, "context": {}}


def question(parts: dict[str, Any]) -> AuthorizationRequest:
    return AuthorizationRequest(**parts)


def test_a_permitted_request_is_allowed_and_says_by_what(client: Client) -> None:
    decision = client.authorize(**ALLOWED)
    assert decision.allowed
    assert decision.reason is Reason.PERMITTED
    assert [policy.policy_id for policy in decision.determining] == ["developer-basics"]
    assert decision.source is PolicySource.LIVE
    assert decision.decision_id == DECISION_ID
    assert decision.bundles[0].digest == "ab" * 32


def test_a_forbidden_request_is_denied_and_says_by_what(client: Client) -> None:
    decision = client.authorize(**FORBIDDEN)
    assert not decision.allowed
    assert [policy.policy_id for policy in decision.determining] == ["no-codex"]


def test_a_request_without_a_permit_is_denied(client: Client) -> None:
    assert client.authorize(**{**ALLOWED, "principal": VIEWER}).reason is Reason.NO_PERMIT


def test_a_request_that_does_not_fit_the_schema_is_an_error_that_names_the_field(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="command"):
        client.authorize(**INVALID)


def test_a_request_that_has_no_wire_form_is_not_sent(client: Client, sidecar: SidecarSimulator) -> None:
    with pytest.raises(InvalidRequest, match="64-bit"):
        client.authorize(**{**ALLOWED, "context": {"command": 2**64}})
    assert sidecar.calls == 0


@pytest.mark.parametrize(
    "answer",
    [
        pb.AuthorizeResponse(),
        pb.AuthorizeResponse(decision=pb.Decision()),
        pb.AuthorizeResponse(decision=pb.Decision(effect=pb.EFFECT_UNSPECIFIED, reason=pb.REASON_CODE_PERMITTED)),
        pb.AuthorizeResponse(decision=pb.Decision(effect=pb.EFFECT_ALLOW)),
        pb.AuthorizeResponse(decision=pb.Decision(effect=7, reason=1, mode=1, source=1)),  # type: ignore[arg-type]
    ],
    ids=["empty", "no-effect", "unspecified-effect", "no-reason", "unknown-effect"],
)
def test_an_answer_that_is_no_decision_never_allows(
    client: Client, sidecar: SidecarSimulator, answer: pb.AuthorizeResponse
) -> None:
    sidecar.answer = answer
    with pytest.raises(BadAnswer):
        client.authorize(**ALLOWED)
    assert client.is_allowed(**ALLOWED) is False


@pytest.mark.parametrize(
    "status", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name
)
def test_no_failure_of_the_sidecar_allows(client: Client, sidecar: SidecarSimulator, status: grpc.StatusCode) -> None:
    sidecar.abort = (status, "out of order")
    with pytest.raises(ClientError):
        client.authorize(**ALLOWED)
    assert client.is_allowed(**ALLOWED) is False


def test_a_stalled_sidecar_is_a_denial_after_the_deadline(
    connect: Connect, socket: Path, sidecar: SidecarSimulator
) -> None:
    sidecar.stall()
    with connect(socket, timeout=0.2) as client:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            client.authorize(**ALLOWED)
        assert client.is_allowed(**ALLOWED) is False


def test_a_missing_sidecar_is_a_denial(connect: Connect, socket: Path) -> None:
    with connect(socket) as client:
        with pytest.raises(SidecarUnreachable, match="is it running"):
            client.authorize(**ALLOWED)
        with pytest.raises(SidecarUnreachable):
            client.authorize_many([question(ALLOWED)])
        assert client.is_allowed(**ALLOWED) is False
        assert client.ready() is False


def test_the_first_call_after_a_restart_of_the_sidecar_works(client: Client, sidecar: SidecarSimulator) -> None:
    assert client.authorize(**ALLOWED).allowed
    sidecar.stop()
    for _ in range(5):
        with pytest.raises(SidecarUnreachable):
            client.authorize(**ALLOWED)
    sidecar.start()
    assert client.authorize(**ALLOWED).allowed


def test_a_client_may_be_there_before_the_sidecar(connect: Connect, sidecar: SidecarSimulator, socket: Path) -> None:
    sidecar.stop()
    with connect(socket, timeout=20.0) as client:
        assert not client.ready()
        sidecar.start()
        assert client.ready()
        assert client.is_allowed(**ALLOWED)


def test_ready_is_what_the_sidecar_says_of_its_health(client: Client, sidecar: SidecarSimulator) -> None:
    assert client.ready()
    sidecar.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert not client.ready()


def test_many_questions_are_answered_in_order_and_a_bad_one_fails_alone(client: Client) -> None:
    untranslatable = {**ALLOWED, "context": {"command": 2**64}}
    results = client.authorize_many([question(q) for q in (ALLOWED, INVALID, untranslatable, FORBIDDEN, ALLOWED)])
    assert [r.allowed if isinstance(r, Decision) else r.code for r in results] == [
        True,
        "InvalidRequest",
        "InvalidRequest",
        False,
        True,
    ]


def test_no_question_needs_no_sidecar(connect: Connect, socket: Path) -> None:
    with connect(socket) as client:
        assert client.authorize_many([]) == []


def test_more_questions_than_one_call_takes_are_refused(client: Client, sidecar: SidecarSimulator) -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_BATCH)):
        client.authorize_many([question(ALLOWED)] * (MAX_BATCH + 1))
    assert sidecar.calls == 0


@pytest.mark.parametrize("results", [0, 1, 3])
def test_another_number_of_results_than_questions_allows_none(
    client: Client, sidecar: SidecarSimulator, results: int
) -> None:
    sidecar.batch_answer = pb.BatchAuthorizeResponse(results=[pb.BatchAuthorizeResult()] * results)
    with pytest.raises(BadAnswer, match="2 requests"):
        client.authorize_many([question(ALLOWED)] * 2)


def test_results_without_a_clear_decision_are_errors_in_their_places(client: Client, sidecar: SidecarSimulator) -> None:
    sidecar.batch_answer = pb.BatchAuthorizeResponse(
        results=[
            pb.BatchAuthorizeResult(),
            pb.BatchAuthorizeResult(decision=pb.Decision()),
            pb.BatchAuthorizeResult(error=pb.RequestError(status="INTERNAL", message="fault 7")),
            pb.BatchAuthorizeResult(error=pb.RequestError(status="INVALID_ARGUMENT", message="`action`: is missing")),
        ]
    )
    results = client.authorize_many([question(ALLOWED)] * 4)
    codes = [result.code for result in results if isinstance(result, ClientError)]
    assert codes == ["BadAnswer", "BadAnswer", "BadAnswer", "InvalidRequest"]


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    client: Client, sidecar: SidecarSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar.stop()
    with caplog.at_level(logging.INFO, logger="akpolicy.client"):
        assert [client.is_allowed(**ALLOWED) for _ in range(3)] == [False] * 3
        sidecar.start()
        assert [client.is_allowed(**ALLOWED) for _ in range(2)] == [True] * 2
    lines = [record.getMessage() for record in caplog.records if record.name == "akpolicy.client"]
    assert len(lines) == 2
    assert "SidecarUnreachable" in lines[0]
    assert lines[1] == "the sidecar answers again"


def test_a_closed_client_says_so(connect: Connect, socket: Path, sidecar: SidecarSimulator) -> None:
    with connect(socket) as client:
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.authorize(**ALLOWED)


def test_a_path_too_long_for_a_socket_is_refused_at_once(connect: Connect) -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        connect("/tmp/" + "x" * 120)


def test_a_path_with_characters_special_in_a_uri_is_a_path(
    connect: Connect, socket: Path, sidecar: SidecarSimulator
) -> None:
    odd = socket.with_name("a b%20?c#ü.sock")
    odd.symlink_to(socket)
    with connect(odd, timeout=20.0) as client:
        assert client.authorize(**ALLOWED).allowed


def test_one_client_serves_many_threads_through_an_outage(socket: Path, sidecar: SidecarSimulator) -> None:
    allowed: list[bool] = []
    with PolicyClient(socket, timeout=20.0) as client:
        sidecar.stop()

        def ask() -> None:
            while not (answer := client.is_allowed(**ALLOWED)):
                restarted.wait()
            allowed.append(answer)

        restarted = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        sidecar.start()
        restarted.set()
        for thread in threads:
            thread.join()
    assert allowed == [True] * 8
