"""Rounds of sending: one at a time, none after the end, and nothing that goes wrong is lost."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from akpolicy_server.api.interruption import Interruption
from akpolicy_server.api.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NEVER_S = 3600.0
DEADLINE_S = 30.0

_said: contextvars.ContextVar[str] = contextvars.ContextVar("said", default="")


class Stream:
    """Counts its rounds; each waits for `go_on`, then does what it is told."""

    def __init__(self, then: Callable[[], float] = lambda: NEVER_S) -> None:
        self.begun = self.ended = 0
        self.changed = asyncio.Event()
        self.go_on = asyncio.Event()
        self.failures: list[Exception] = []
        self.heard: list[str] = []
        self._then = then
        self.rounds = Rounds(self._round, self._failed)

    async def _round(self) -> float:
        self.begun += 1
        self.heard.append(_said.get())
        self.changed.set()
        await self.go_on.wait()
        self.ended += 1
        self.changed.set()
        return self._then()

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_one_round_runs_at_a_time_and_the_next_when_it_is_asked_for() -> None:
    async def scenario() -> None:
        stream = Stream()
        stream.rounds.begin()
        stream.rounds.begin()
        await stream.until(lambda: stream.begun == 1)
        stream.rounds.begin()
        stream.go_on.set()
        await stream.until(lambda: stream.ended == 1)
        await asyncio.sleep(0)
        assert (stream.begun, stream.ended) == (1, 1)
        stream.rounds.begin()
        await stream.until(lambda: stream.ended == 2)
        await stream.rounds.stop()

    run(scenario)


def test_a_round_begins_by_itself_after_the_pause_that_the_last_one_asked_for() -> None:
    async def scenario() -> None:
        pauses = iter((0.0, 0.001, NEVER_S))
        stream = Stream(lambda: next(pauses))
        stream.go_on.set()
        stream.rounds.begin()
        await stream.until(lambda: stream.ended == 3)
        await stream.rounds.stop()

    run(scenario)


def test_none_begins_after_the_end() -> None:
    async def scenario() -> None:
        stream = Stream(lambda: 0.0)
        stream.rounds.begin()
        await stream.until(lambda: stream.begun == 1)
        await stream.rounds.stop()
        stream.go_on.set()
        stream.rounds.begin()
        for _ in range(3):
            await asyncio.sleep(0)
        assert (stream.begun, stream.ended, stream.failures) == (1, 0, [])

    run(scenario)


def test_a_stop_between_two_rounds_takes_back_the_next() -> None:
    async def scenario() -> None:
        stream = Stream(lambda: 0.0)
        stream.go_on.set()
        stream.rounds.begin()
        await stream.until(lambda: stream.ended == 1)
        await stream.rounds.stop()
        ended = stream.ended
        for _ in range(3):
            await asyncio.sleep(0)
        assert stream.begun == stream.ended == ended

    run(scenario)


@pytest.mark.parametrize("what", [ValueError("x"), asyncio.CancelledError()])
def test_a_round_that_fails_is_told_and_is_the_last(what: BaseException) -> None:
    def fail() -> float:
        raise what

    async def scenario() -> None:
        stream = Stream(fail)
        stream.go_on.set()
        stream.rounds.begin()
        await stream.until(lambda: bool(stream.failures))
        stream.rounds.begin()
        await asyncio.sleep(0)
        assert stream.begun == 1
        assert isinstance(stream.failures[0], ValueError if isinstance(what, ValueError) else RuntimeError)
        await stream.rounds.stop()

    run(scenario)


def test_whoever_wakes_a_stream_does_not_lend_it_the_context() -> None:
    async def scenario() -> None:
        _said.set("the call's")
        stream = Stream()
        stream.go_on.set()
        _said.set("the publisher's")
        stream.rounds.begin()
        await stream.until(lambda: stream.ended == 1)
        assert stream.heard == ["the call's"]
        await stream.rounds.stop()

    run(scenario)


async def _waiting(interruption: Callable[[Interruption], None], waits: asyncio.Event) -> None:
    reason = Interruption()
    interruption(reason)
    with reason:
        waits.set()
        await asyncio.Event().wait()


def test_a_task_that_waits_raises_the_first_reason_that_it_is_given() -> None:
    async def scenario() -> None:
        given: list[Interruption] = []
        waits = asyncio.Event()
        task = asyncio.create_task(_waiting(given.append, waits))
        await waits.wait()
        given[0].because(ValueError("first"))
        given[0].because(ValueError("second"))
        with pytest.raises(ValueError, match="first"):
            await task
        assert not task.cancelled()

    run(scenario)


def test_a_reason_that_came_before_is_raised_at_once() -> None:
    async def scenario() -> None:
        def at_once(interruption: Interruption) -> None:
            interruption.because(ValueError("before"))

        waits = asyncio.Event()
        with pytest.raises(ValueError, match="before"):
            await _waiting(at_once, waits)
        assert not waits.is_set()

    run(scenario)


@pytest.mark.parametrize("is_first", [True, False])
def test_who_cancels_the_task_besides_cancels_it(*, is_first: bool) -> None:
    async def scenario() -> None:
        given: list[Interruption] = []
        waits = asyncio.Event()
        task = asyncio.create_task(_waiting(given.append, waits))
        await waits.wait()
        if is_first:
            task.cancel()
        given[0].because(ValueError("reason"))
        if not is_first:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario)


def test_what_the_block_raises_by_itself_is_raised() -> None:
    async def scenario() -> None:
        with pytest.raises(KeyError), Interruption():
            raise KeyError

    run(scenario)


class _Reason(Exception):
    """Can be asked whether it is still there."""


def test_nothing_stays_of_a_reason_until_python_looks_for_garbage() -> None:
    async def told(reasons: list[Interruption]) -> None:
        reason = Interruption()
        reasons.append(reason)
        with pytest.raises(_Reason), reason:
            await asyncio.Event().wait()

    async def scenario() -> None:
        reasons: list[Interruption] = []
        task = asyncio.create_task(told(reasons))
        await asyncio.sleep(0)
        why = _Reason()
        seen = weakref.ref(why)
        reasons[0].because(why)
        del why
        await task
        assert seen() is None

    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()
