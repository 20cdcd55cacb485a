"""The signals that are for the sidecar: waited for on a thread of their own, and told one by one.

Rules:

- Nobody handles them: they are blocked in every thread, so that none interrupts anything.
- A process that was stopped and goes on (SIGSTOP, a paused container, a machine that slept) has received nothing. This
  is why nobody waits for signals for a time: Python's `sigtimedwait` returns what never was if it is interrupted and
  the time is over (CPython 3.11), and a sidecar would end because it was paused.
"""

from __future__ import annotations

import queue
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Signals:
    """Receives signals from its making to the end of the process. Make it before any thread is started."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = frozenset(numbers)
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        threading.Thread(target=self._receive, name="signals", daemon=True).start()

    def next(self, timeout_s: float) -> int | None:
        """Return the next signal, or None if none came within so many seconds."""
        try:
            return self._received.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _receive(self) -> None:
        while True:
            self._received.put(signal.sigwait(self._numbers))
