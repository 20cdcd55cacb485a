"""How a task that waits for a host is told that it is to stop waiting, and why.

A task of its own that waits for the reason would cost each of thousands of streams more than all that the reason is
about. So the waiting task is cancelled, and raises the reason instead.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class HostGone(Exception):
    """The other end of a stream has left in the middle of what was sent to it."""


class Interruption:
    """A block of the current task that others may end. Whoever cancels the task besides, cancels it."""

    __slots__ = ("_is_open", "_task", "_why")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._why: Exception | None = None
        self._is_open = False

    def because(self, why: Exception) -> None:
        """Have the block raise this; what it is told first counts."""
        if self._why is not None:
            return
        self._why = why
        if self._is_open and self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        why, self._why = self._why, None
        if why is not None:
            raise why
        self._is_open = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        # Not kept: an error that its own traceback leads to would stay until Python looks for garbage.
        why, self._why = self._why, None
        if why is None or self._task is None:
            return
        # Who has left has cancelled the call, whether gRPC says so already or in a moment.
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError and not isinstance(why, HostGone):
            try:
                raise why from None
            finally:
                del why
