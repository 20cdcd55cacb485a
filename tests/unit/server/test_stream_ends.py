"""A stream is accounted for however it ends: counted no more, and its host reported as gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest
from grpc.aio import EOF, InternalError

from akpolicy_server.api.distribution import DistributionServicer, _write
from akpolicy_server.fanout import Subscriber
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEADLINE_S: Final = 30.0


class Gauge:
    """What counts the streams."""

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        self.value += 1

    def dec(self) -> None:
        self.value -= 1


class Scene:
    """One stream in the hands of a servicer; its transport does what a test says."""

    def __init__(self, write: Callable[[Scene], Awaitable[None]]) -> None:
        self.subscribers = Gauge()
        self.ends: list[bool] = []
        self.closed = asyncio.Event()
        self.writing = asyncio.Event()
        self._write = write

    async def serve(self) -> None:
        servicer: Any = DistributionServicer.__new__(DistributionServicer)
        servicer._services = type("Services", (), {"metrics": type("Metrics", (), {"subscribers": self.subscribers})})
        servicer._fanout = None
        subscriber = Subscriber(HostKey("acme", "host-1"), "key")
        await servicer._serve(subscriber, self, self)

    # --- the subscription ---------------------------------------------------------------------------------------------

    async def talk(self) -> float:
        self.writing.set()
        await self._write(self)
        raise AssertionError

    def hear(self, _message: object) -> None:
        raise AssertionError

    def end(self, *, left: bool) -> None:
        self.ends.append(left)

    # --- the transport ------------------------------------------------------------------------------------------------

    async def read(self) -> object:
        await self.closed.wait()
        return EOF


async def _for_ever(_: Scene) -> None:
    await asyncio.Event().wait()


async def _to_nobody(_: Scene) -> None:
    class Context:
        async def write(self, _message: bytes) -> None:
            raise InternalError("the call is gone")

    await _write(Context(), b"")  # type: ignore[arg-type]


async def _wrongly(_: Scene) -> None:
    raise ValueError("a mistake")


def run(scenario: Callable[[], Awaitable[Scene]]) -> Scene:
    async def main() -> Scene:
        async with asyncio.timeout(DEADLINE_S):
            return await scenario()

    return asyncio.run(main())


def test_a_call_that_is_cancelled_while_its_round_is_stopped_is_accounted_for() -> None:
    async def scenario() -> Scene:
        scene = Scene(_for_ever)
        call = asyncio.create_task(scene.serve())
        await scene.writing.wait()
        scene.closed.set()
        # As gRPC does: the end of what a host says, and a moment later the cancellation.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return scene

    scene = run(scenario)
    assert (scene.subscribers.value, scene.ends) == (0, [True])


@pytest.mark.parametrize(("write", "error"), [(_to_nobody, asyncio.CancelledError), (_wrongly, ValueError)])
def test_a_host_that_leaves_in_the_middle_of_a_write_has_cancelled_its_call(
    write: Callable[[Scene], Awaitable[None]], error: type[BaseException]
) -> None:
    async def scenario() -> Scene:
        scene = Scene(write)
        with pytest.raises(error):
            await asyncio.create_task(scene.serve())
        return scene

    scene = run(scenario)
    assert (scene.subscribers.value, scene.ends) == (0, [True])
