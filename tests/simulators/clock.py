"""Time that moves only when a test says so."""

from __future__ import annotations

import threading
import uuid

START = 1_800_000_000.0


class ManualClock:
    """An `akpolicy.clock.Clock` for tests; safe to move while other threads read it."""

    def __init__(self, start: float = START) -> None:
        """Begin at `start` (epoch seconds), 1,000 seconds after a boot."""
        self._lock = threading.Lock()
        self._now = start
        self._elapsed = 1000.0
        self._boot_id = str(uuid.uuid4())

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        with self._lock:
            return self._now

    def elapsed(self) -> float:
        """Return seconds since boot."""
        with self._lock:
            return self._elapsed

    def boot_id(self) -> str:
        """Return the id of this boot."""
        with self._lock:
            return self._boot_id

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        if seconds < 0:
            msg = "time does not go back; use set_wall() to set the wall clock"
            raise ValueError(msg)
        with self._lock:
            self._now += seconds
            self._elapsed += seconds

    def set_wall(self, now: float) -> None:
        """Set the wall clock alone, as an administrator or an attacker would."""
        with self._lock:
            self._now = now

    def reboot(self, *, down_for: float = 60.0) -> None:
        """Boot anew: `elapsed` begins at 0, the boot has another id, the wall clock went on for `down_for` seconds."""
        with self._lock:
            self._now += down_for
            self._elapsed = 0.0
            self._boot_id = str(uuid.uuid4())
