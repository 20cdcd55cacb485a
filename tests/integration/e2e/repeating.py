"""What goes on while something else happens: the same call again and again, on a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Repeating(Generic[T]):
    """Calls from the block's begin to its end, and keeps what came out; a call that fails fails the block."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.results: list[T] = []
        self._call = call
        self._failures: list[Exception] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if kind is None:
            assert self._failures == []

    def end(self) -> None:
        """Call no more; fail if a call has failed."""
        self.__exit__(None)

    def more(self, count: int = 3) -> None:
        """Wait until this many calls more have ended, each begun after this one."""
        # The one that runs now began before.
        enough = len(self.results) + 1 + count
        wait_until(lambda: self._failures or len(self.results) >= enough, what=f"{count} more calls")

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                self.results.append(self._call())
            except Exception as error:  # noqa: BLE001 - raised as a failure when the block ends
                self._failures.append(error)
                return
