"""Sending in rounds: what runs only while there is something to send.

Rules:

- A round runs as a task of its own, one at a time, and ends when nothing is left to send. In between, a stream costs a
  timer and no task: of thousands, nearly all wait nearly always.
- The next round begins when it is asked for (`begin`), or when the pause is over that the last one asked for.
- What a round raises is told to whoever holds the stream, and no further round begins.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Rounds:
    """The rounds of one stream; on the event loop."""

    __slots__ = ("_context", "_failed", "_is_over", "_round", "_running", "_timer")

    def __init__(self, a_round: Callable[[], Awaitable[float]], failed: Callable[[Exception], None]) -> None:
        """`a_round` sends what there is, and returns after how many seconds it is to be called again.

        Whatever it logs belongs to the call that makes this.
        """
        self._round = a_round
        self._failed = failed
        self._context = contextvars.copy_context()
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    def begin(self) -> None:
        """Have a round begin, unless one runs: that one has to look whether there is more."""
        if self._running is not None or self._is_over:
            return
        self._stop_timer()
        self._running = asyncio.get_running_loop().create_task(self._run(), context=self._context)

    async def stop(self) -> None:
        """End the round that runs, and have no other begin."""
        self._is_over = True
        self._stop_timer()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            pause_s = await self._round()
        except asyncio.CancelledError:
            if not self._is_over:
                # What it waited for was cancelled. A stream that lives on and sends nothing would be worse.
                self._fail(RuntimeError("a round was cancelled by something else than the end of its stream"))
            raise
        except Exception as error:  # noqa: BLE001 - told, and raised there
            self._fail(error)
        else:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self.begin, context=self._context)
        finally:
            self._running = None

    def _fail(self, error: Exception) -> None:
        self._is_over = True
        self._failed(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
