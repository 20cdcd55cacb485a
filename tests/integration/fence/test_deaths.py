"""What kills the child leaves the program alive, is refused, and is remembered."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from akpolicy.engine.source import PolicyText
from akpolicy.errors import EngineUnavailable, PolicyCrashesEngine
from akpolicy.fence.fence import (
    MAX_PAUSE_S,
    MAX_REMEMBERED,
    Fence,
    content_digest,
    job_deadline_s,
    restart_pause_s,
)
from akpolicy.fence.process import ChildLost
from akpolicy.limits import MAX_CONTENT_BYTES, MIB
from tests.integration.fence.conftest import ANY, GOOD, Attempt, deed, descriptors, is_gone
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from tests.integration.fence.conftest import Scene


def _crash(fence: Fence, policies: tuple[PolicyText, ...], schema: CedarSchema) -> str:
    with pytest.raises(PolicyCrashesEngine) as caught:
        fence.prove(policies, schema)
    return caught.value.message


def test_a_crash_of_cedar_kills_the_child_alone(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    fence.prove(GOOD, schema)
    first = fence.pid

    message = _crash(fence, deed("crash"), schema)

    assert "SIGSEGV" in message
    assert content_digest(deed("crash")) in message
    assert first is not None
    assert is_gone(first)
    fence.prove(GOOD, schema)
    assert (fence.starts, fence.crashes) == (2, 1)


def test_crashing_content_is_refused_at_once_the_second_time(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    first = _crash(fence, deed("crash"), schema)

    again = [_crash(fence, deed("crash"), schema) for _ in range(5)]
    elsewhere = _crash(fence, (PolicyText("crash", ANY, "another.cedar", 5),), schema)

    assert {*again, elsewhere} == {first}
    assert (fence.starts, fence.crashes) == (1, 1)


def test_other_content_and_another_schema_are_tried(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    _crash(fence, deed("crash"), schema)
    _crash(fence, deed("crash", ANY + "// changed"), schema)

    assert (fence.starts, fence.crashes) == (2, 2)


@pytest.mark.parametrize(
    ("name", "words"),
    [("abort", "SIGABRT (it may use 2048 MiB)"), ("fail", "ended with status 1"), ("grow", "ran out of memory")],
)
def test_the_refusal_says_what_the_child_died_of(name: str, words: str, scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()

    assert words in _crash(fence, deed(name), schema)
    assert words in _crash(fence, deed(name), schema)
    assert fence.starts == 1
    fence.prove(GOOD, schema)


def test_policies_that_take_all_memory_kill_the_child_alone(schema: CedarSchema) -> None:
    sets = f"permit (principal, action, resource) when {{ [{','.join(['1'] * 8000)}].contains(1) }};"
    with Fence(memory_bytes=128 * MIB) as fence:
        message = _crash(fence, tuple(PolicyText(f"p{i}", sets) for i in range(40)), schema)

        assert "it may use 128 MiB" in message
        fence.prove(GOOD, schema)


def test_a_job_without_an_end_is_ended(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    fence.prove(GOOD, schema)
    first, scene.seconds = fence.pid, 0.1

    message = _crash(fence, deed("hang"), schema)

    assert "was not done after 0.1 seconds" in message
    assert first is not None
    assert is_gone(first)
    scene.seconds = 60.0
    fence.prove(GOOD, schema)


def test_a_child_killed_from_outside_is_held_against_its_content_only_the_second_time(
    scene: Scene, schema: CedarSchema
) -> None:
    fence = scene.fence()
    for _ in range(2):
        scene.marker.unlink(missing_ok=True)
        attempt = Attempt(lambda: fence.prove(deed("hang"), schema))
        wait_until(scene.marker.exists)
        assert fence.pid is not None
        os.kill(fence.pid, signal.SIGKILL)
        failure = attempt.end()
        assert isinstance(failure, PolicyCrashesEngine)
        assert "SIGKILL" in failure.message

    assert "leave some out" in _crash(fence, deed("hang"), schema)
    assert (fence.starts, fence.crashes) == (2, 2)


def test_content_that_was_lost_once_from_outside_can_be_proven(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    assert "send them once more" in _crash(fence, deed("first"), schema)

    fence.prove(deed("first"), schema)


def test_a_child_that_ends_while_idle_is_replaced_without_a_word(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    fence.prove(GOOD, schema)
    first = fence.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: is_gone(first))

    fence.prove(GOOD, schema)

    assert (fence.starts, fence.crashes) == (2, 0)


@pytest.mark.parametrize("kind", ["noise", "kind", "length", "strings", "foreign", "late"])
def test_an_answer_that_is_none_is_not_believed(kind: str, scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence(kind)

    assert "answered what is no answer" in _crash(fence, GOOD, schema)
    assert fence.pid is None


def test_a_child_that_only_closes_its_pipe_is_ended(
    scene: Scene, schema: CedarSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akpolicy.fence.process.EXIT_DEADLINE_S", 0.1)
    fence = scene.fence("nothing")
    fence.start()
    pid = fence.pid

    assert "closed its pipe" in _crash(fence, GOOD, schema)
    assert pid is not None
    assert is_gone(pid)


def test_a_child_that_speaks_unasked_is_replaced(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence("unasked")

    for _ in range(3):
        fence.prove(GOOD, schema)

    assert (fence.starts, fence.crashes) == (3, 0)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/no/such/program"], "No such file"),
        ([sys.executable, "-c", "import no_such_module"], "it ended with status 1 (`ModuleNotFoundError: No module"),
        (["/bin/sh", "-c", "kill -9 $$"], "it was ended by SIGKILL"),
        (["/bin/echo", "a line that is no greeting"], "it answered what is no answer"),
    ],
)
def test_without_a_child_nothing_passes(command: list[str], words: str, schema: CedarSchema) -> None:
    before = descriptors("self")
    with Fence(command=command, pause_s=lambda deaths: 0.0) as fence, pytest.raises(EngineUnavailable) as caught:
        fence.prove(GOOD, schema)

    assert f"cannot be started: {words}" in caught.value.message
    assert (fence.crashes, descriptors("self")) == (0, before)


def test_a_call_that_is_broken_off_takes_its_child_with_it(
    scene: Scene, schema: CedarSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = scene.fence()
    fence.prove(GOOD, schema)
    first = fence.pid

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("akpolicy.fence.process._wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fence.prove(GOOD, schema)

    assert first is not None
    assert is_gone(first)
    fence.prove(GOOD, schema)
    assert (fence.starts, fence.crashes) == (2, 0)


def test_after_a_death_the_next_start_waits_until_the_pause_or_the_fence_ends(
    scene: Scene, schema: CedarSchema
) -> None:
    pauses: list[int] = []

    def pause_s(deaths: int) -> float:
        pauses.append(deaths)
        return 0.0 if deaths < 3 else 3600.0

    fence = scene.fence(pause_s=pause_s)
    for number in range(3):
        _crash(fence, deed("crash", ANY + "//" * number), schema)
    waiting = Attempt(lambda: fence.prove(GOOD, schema))
    wait_until(fence._lock.locked)

    fence.close()

    assert isinstance(waiting.end(), EngineUnavailable)
    assert (pauses, fence.starts) == ([1, 2, 3], 3)


def test_a_good_job_ends_a_row_of_deaths(scene: Scene, schema: CedarSchema) -> None:
    pauses: list[int] = []

    def pause_s(deaths: int) -> float:
        pauses.append(deaths)
        return 0.0

    fence = scene.fence(pause_s=pause_s)
    _crash(fence, deed("crash"), schema)
    _crash(fence, deed("abort"), schema)
    fence.prove(GOOD, schema)
    _crash(fence, deed("fail"), schema)

    assert pauses == [1, 2, 1]


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = [restart_pause_s(deaths) for deaths in range(1, 12)]

    assert pauses == sorted(pauses)
    assert pauses[1] == 2 * pauses[0] > 0
    assert pauses[-1] == restart_pause_s(10**6) == MAX_PAUSE_S


def test_a_deadline_grows_with_the_job() -> None:
    assert job_deadline_s(0) < job_deadline_s(MIB) < job_deadline_s(MAX_CONTENT_BYTES)


def test_what_is_remembered_is_bounded(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    lost = ChildLost("was ended by SIGSEGV", own_fault=True)
    for number in range(MAX_REMEMBERED + 50):
        fence._remember((b"schema", str(number)), lost)

    assert len(fence._crashed) == MAX_REMEMBERED
    assert re.search("SIGSEGV", fence._crashed[b"schema", str(MAX_REMEMBERED + 49)].reason)
