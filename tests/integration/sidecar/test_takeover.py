"""A sidecar is replaced under running questions: none is refused, and both processes have decided."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import pytest

from akpolicy.client import PolicyClient, Principal, Resource, SessionRefused
from akpolicy.errors import ClientError
from akpolicy.v1 import authorization_pb2 as pb
from tests.integration.sidecar.process import CALL_DEADLINE_S, EXIT_DEADLINE_S, FORBID, PERMIT, Sidecar
from tests.simulators.certificates import AuthoritySimulator
from tests.simulators.policy_server import PolicyServerSimulator
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.decision import Decision
    from tests.simulators.org import OrgSimulator

ALICE = Principal("alice", "acme", roles=("developer",))
BOX = Resource("box", attributes={"agent_type": "claude", "runtime": "python"})
ASKERS = 4
DECISIONS = 'akpolicy_sidecar_decisions_total{effect="allow",reason="permitted",source="live"}'


@pytest.fixture
def server(org: OrgSimulator) -> Iterator[PolicyServerSimulator]:
    """The interval of a server: a stream counts three of them."""
    with PolicyServerSimulator(org, keep_alive_s=10.0) as running:
        yield running


class Successor:
    """A second process for the same configuration."""

    def __init__(self, sidecar: Sidecar, *, name: str = "second") -> None:
        self.log = sidecar.directory / f"{name}.log"
        self.ready_file = sidecar.directory / f"{name}.json"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "akpolicy_sidecar", "--config", sidecar.config),
                    *("--take-over", "--ready-file", self.ready_file),
                ],
                env={**os.environ, **sidecar.env},
                stdout=log,
                stderr=log,
            )

    def wait_serving(self) -> None:
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None, what="the successor")
        assert self.process.poll() is None, self.log.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(EXIT_DEADLINE_S)


@contextmanager
def successor(sidecar: Sidecar, *, name: str = "second") -> Iterator[Successor]:
    started = Successor(sidecar, name=name)
    try:
        yield started
    finally:
        started.end()


class Asking:
    """Threads that ask without a pause, each over a connection of its own, until `stop`."""

    def __init__(self, path: Path) -> None:
        self.decided: list[Decision] = []
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._path = path
        self._threads = [threading.Thread(target=self._ask) for _ in range(ASKERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with PolicyClient(self._path, timeout=CALL_DEADLINE_S) as client:
            while not self._stop.is_set():
                try:
                    decision = client.authorize(principal=ALICE, action="Attach", resource=BOX)
                except ClientError as error:
                    self.refused.append(str(error))
                    continue
                if not decision.allowed:
                    self.refused.append(decision.message)
                self.decided.append(decision)


def second_process(sidecar: Sidecar, second: Successor) -> Sidecar:
    """Return what asks the second process for its metrics."""
    same = Sidecar(sidecar.directory, "", "")
    same.ready_file, same.process = second.ready_file, second.process
    return same


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cached_with_expiry", "fail_closed"])
def test_a_sidecar_is_replaced_and_no_call_is_refused(
    sidecar: Sidecar, server: PolicyServerSimulator, mode: str
) -> None:
    sidecar.enterprise["offline_mode"] = mode
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    first = sidecar.process
    assert first is not None

    with successor(sidecar) as second:
        with Asking(sidecar.socket) as asking:
            wait_until(lambda: len(asking.decided) > ASKERS)
            second.wait_serving()
            by_the_first = len(asking.decided)
            assert first.wait(EXIT_DEADLINE_S) == 0
            after_the_first = len(asking.decided)
            wait_until(lambda: len(asking.decided) > after_the_first + ASKERS)

        assert asking.refused == []
        by_the_second = second_process(sidecar, second).metric(DECISIONS)
        assert by_the_first > ASKERS
        assert ASKERS < by_the_second < len(asking.decided)
        ids = [record["decision_id"] for record in sidecar.records()]
        assert len(ids) == len(set(ids))
        assert {decision.decision_id for decision in asking.decided} <= set(ids)
        server.publish(FORBID)
        sidecar.wait_reason("FORBIDDEN")
        assert json.loads(second.ready_file.read_text())["pid"] == second.process.pid
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(EXIT_DEADLINE_S) == 0
    assert not sidecar.socket.exists()


@pytest.mark.slow
def test_sessions_are_taken_over_and_those_that_are_closed_meanwhile_stay_closed(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    first = sidecar.process
    assert first is not None
    inside = sidecar.socket.with_name("session.sock")

    with PolicyClient(sidecar.socket, timeout=CALL_DEADLINE_S) as runtime:
        kept, closed = runtime.open_session(ALICE, BOX), runtime.open_session(ALICE, BOX)
        closed.close()
        with successor(sidecar) as second:
            second.wait_serving()
            assert first.wait(EXIT_DEADLINE_S) == 0

            with PolicyClient(inside, timeout=CALL_DEADLINE_S) as sandbox:
                assert sandbox.authorize_session(kept.token, "Attach").allowed
                with pytest.raises(SessionRefused):
                    sandbox.authorize_session(closed.token, "Attach")
            assert second_process(sidecar, second).metric("akpolicy_sidecar_sessions") == 1


def test_a_successor_that_fails_changes_nothing(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sidecar.sidecar["metrics_listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        sidecar.write_config()

        with successor(sidecar) as second:
            assert second.process.wait(EXIT_DEADLINE_S) == 1
            assert "is in use" in second.log.read_text()

    assert sidecar.ask().reason == pb.REASON_CODE_PERMITTED
    wait_until(lambda: "the successor failed; going on" in sidecar.output())
    server.publish(FORBID)
    assert sidecar.wait_reason("FORBIDDEN").bundles[0].version == 2


def test_where_no_sidecar_runs_a_takeover_is_a_start(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    sidecar.stop(signal.SIGKILL)

    with successor(sidecar) as second:
        second.wait_serving()
        assert sidecar.ask().reason == pb.REASON_CODE_PERMITTED


def test_a_sidecar_that_listens_on_tcp_does_not_hand_over(
    sidecar: Sidecar, server: PolicyServerSimulator, tmp_path: Path
) -> None:
    sidecar.serve_tcp(AuthoritySimulator(tmp_path).issue("host"))
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    with successor(sidecar) as second:
        assert second.process.wait(EXIT_DEADLINE_S) == 1
        assert "a port cannot be handed over" in second.log.read_text()

    server.publish(FORBID)
    sidecar.wait_reason("FORBIDDEN")


def test_a_socket_of_another_process_is_not_taken(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    sidecar.socket.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(sidecar.socket))
        other.listen()

        with successor(sidecar) as second:
            assert second.process.wait(EXIT_DEADLINE_S) == 1
            assert "served by another process" in second.log.read_text()

    # Its own socket is lost, so that nobody can ask it: it does not go on as if nothing were wrong.
    assert sidecar.process is not None
    assert sidecar.process.wait(EXIT_DEADLINE_S) == 1
