"""Time, handed in.

Rules:

- Code that judges or decides reads no clock but the `Clock` it was given, and reads it once per operation.
- `now()` is the wall clock: it can jump. `elapsed()` never goes back and counts suspended time (CLOCK_BOOTTIME), but
  means nothing across boots; `boot_id()` tells boots apart. A `Moment` is one reading of all three.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Return seconds since the Unix epoch, by the wall clock."""

    def elapsed(self) -> float:
        """Return seconds since boot, suspended time included; never goes back."""

    def boot_id(self) -> str:
        """Return what identifies this boot of the machine; empty if unknown."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Return seconds since the Unix epoch, by the wall clock."""
        return time.time()

    def elapsed(self) -> float:
        """Return seconds since boot, suspended time included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """Return the kernel's id of this boot; empty where there is none."""
        return _read_boot_id()


@dataclass(frozen=True, slots=True)
class Moment:
    """A reading of all clocks: epoch seconds, seconds since boot, and which boot (empty if unknown)."""

    wall: float
    elapsed: float
    boot_id: str

    @classmethod
    def read(cls, clock: Clock) -> Moment:
        """Read the clocks, once."""
        return cls(clock.now(), clock.elapsed(), clock.boot_id())

    def is_boot_of(self, earlier: Moment) -> bool:
        """Whether both are of one boot, so that `elapsed` tells what lies between."""
        return bool(self.boot_id) and self.boot_id == earlier.boot_id and self.elapsed >= earlier.elapsed

    def since(self, earlier: Moment) -> float:
        """Return the seconds from `earlier` to this moment; infinite if the clocks cannot tell."""
        if self.is_boot_of(earlier):
            return self.elapsed - earlier.elapsed
        seconds = self.wall - earlier.wall
        return seconds if seconds >= 0 else math.inf


@lru_cache(maxsize=1)
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
