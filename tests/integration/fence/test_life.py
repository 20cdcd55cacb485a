"""How the child lives: what it has, what it has not, and that it never outlives its program."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import EngineUnavailable
from akpolicy.fence.child import UNLIMITED_THREAD_STACK_BYTES, proof_stack_bytes
from akpolicy.fence.fence import MEMORY_BYTES, Fence
from akpolicy.limits import MIB
from tests.integration.fence.conftest import GOOD, Attempt, deed, descriptors, is_gone
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from tests.integration.fence.conftest import Scene

_PARENT = """
import sys
from akpolicy.engine.schema import load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.fence.fence import Fence

fence = Fence(command=sys.argv[1:])
schema = load_default_schema()
policies = [PolicyText("good", "permit (principal, action, resource);")]
fence.prove(policies, schema)
print(fence.pid, flush=True)
input()
fence.prove([PolicyText("hang", policies[0].text)], schema)
"""
_NESTED = f"permit (principal, action, resource) when {{ {'(' * 530}true{')' * 530} }};"
_PARSE = f"""
import resource, sys
from akpolicy.fence.child import confine
import cedarpy
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
if sys.argv[1] == "confined":
    confine(1 << 31)
cedarpy.PolicySet.from_str({_NESTED!r})
"""


def _warm(fence: Fence, schema: CedarSchema) -> int:
    fence.prove(GOOD, schema)
    assert fence.pid is not None
    return fence.pid


def _status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def _limits(pid: int, name: str) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.removeprefix(name).split()[:2] for line in lines if line.startswith(name))


# --- what it has ------------------------------------------------------------------------------------------------------


def test_a_child_is_started_ahead_and_only_once(schema: CedarSchema) -> None:
    with Fence() as fence:
        assert (fence.pid, fence.starts) == (None, 0)
        fence.start()
        started = fence.pid
        fence.start()

        assert _warm(fence, schema) == started
        assert fence.starts == 1


def test_a_child_has_no_environment_and_only_its_own_descriptors(
    schema: CedarSchema, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AKPOLICY_TEST_KEY", "a secret of the program")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        with Fence() as fence:
            pid = _warm(fence, schema)

            assert b"AKPOLICY" not in Path(f"/proc/{pid}/environ").read_bytes()
            found = descriptors(pid)
    assert sorted(found)[:3] == ["0", "1", "2"]
    assert {found.pop(standard) for standard in ("0", "1", "2")} == {os.devnull}
    assert [target.partition(":")[0] for target in found.values()] == ["pipe", "pipe"]


def test_a_child_is_confined(schema: CedarSchema) -> None:
    with Fence() as fence:
        pid = _warm(fence, schema)

        assert _limits(pid, "Max address space") == [str(MEMORY_BYTES)] * 2
        assert _limits(pid, "Max core file size") == ["0", "0"]
        soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
        assert _limits(pid, "Max stack size")[0] == str(proof_stack_bytes(soft))
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


@pytest.mark.parametrize("given", [8 * MIB, 2 * MIB, resource.RLIM_INFINITY])
def test_a_child_has_less_stack_than_a_thread_of_its_parent(given: int) -> None:
    of_thread = UNLIMITED_THREAD_STACK_BYTES if given == resource.RLIM_INFINITY else given

    assert of_thread // 2 < proof_stack_bytes(given) < of_thread


@pytest.mark.parametrize(("how", "code"), [("free", 0), ("confined", -signal.SIGSEGV)])
def test_what_a_program_could_just_parse_kills_a_child(how: str, code: int) -> None:
    assert subprocess.run([sys.executable, "-c", _PARSE, how], check=False).returncode == code


def test_what_a_library_prints_does_not_get_into_the_answers(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()

    fence.prove(deed("print"), schema)
    fence.prove(GOOD, schema)

    assert fence.starts == 1


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_child_of_a_thread_that_blocks_signals_blocks_none(schema: CedarSchema) -> None:
    pids: list[int] = []

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pids.append(_warm(fence, schema))

    with Fence() as fence:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

        assert int(_status(pids[0], "SigBlk"), 16) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_stops_the_program_does_not_look_like_a_crash(
    number: signal.Signals, fence: Fence, schema: CedarSchema
) -> None:
    pid = _warm(fence, schema)
    starts = fence.starts
    assert os.getpgid(pid) != os.getpgid(0)

    os.kill(pid, number)

    fence.prove(GOOD, schema)
    assert (fence.pid, fence.starts) == (pid, starts)


def test_input_that_is_announced_late_does_not_end_a_job(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()

    fence.prove(deed("announce"), schema)
    fence.prove(GOOD, schema)

    assert (fence.starts, fence.crashes) == (1, 0)


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_child_does_not_outlive_a_killed_program(state: str, scene: Scene) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, *scene.fence()._command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        scene.marker.unlink()
        if state == "busy":
            parent.stdin.write("\n")
            parent.stdin.flush()
            wait_until(scene.marker.exists)
        assert not is_gone(pid)

        parent.kill()

        wait_until(lambda: is_gone(pid), what="the end of the child")


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_ends_an_idle_child_and_can_be_repeated(schema: CedarSchema) -> None:
    fence = Fence()
    pid = _warm(fence, schema)

    fence.close()
    fence.close()

    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(EngineUnavailable):
        fence.prove(GOOD, schema)
    with pytest.raises(EngineUnavailable):
        fence.start()
    assert fence.starts == 1


def test_closing_before_the_first_job_is_fine() -> None:
    fence = Fence()
    fence.close()

    assert fence.pid is None


def test_closing_while_the_child_warms_up_leaves_none() -> None:
    fence = Fence()
    fence.start()
    pid = fence.pid

    fence.close()

    assert not Path(f"/proc/{pid}").exists()


def test_closing_ends_a_busy_child_and_everyone_who_waits_for_it(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    busy = Attempt(lambda: fence.prove(deed("hang"), schema))
    wait_until(scene.marker.exists)
    pid = fence.pid
    waiting = [Attempt(lambda: fence.prove(GOOD, schema)) for _ in range(4)]

    fence.close()

    failures = [attempt.end() for attempt in (busy, *waiting)]
    assert [type(failure) for failure in failures] == [EngineUnavailable] * 5
    assert not Path(f"/proc/{pid}").exists()
    assert (fence.starts, fence.crashes) == (1, 0)


@pytest.mark.slow
def test_fifty_restarts_leave_no_descriptor_and_no_process(schema: CedarSchema) -> None:
    pids = []
    with Fence() as fence:
        _warm(fence, schema)
        before = len(descriptors("self"))
        for _ in range(50):
            pids.append(pid := _warm(fence, schema))
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: is_gone(pid))  # type: ignore[misc]
        pids.append(_warm(fence, schema))

        assert len(descriptors("self")) == before
    assert len(set(pids)) == fence.starts == 51
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
