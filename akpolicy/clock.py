"""Time, handed in.

Rules:

- Code that judges or decides reads no clock but the `Clock` it was given, and reads it once per operation.
- `now()` is the wall clock: it can jump. `elapsed()` never goes back and counts suspended time (CLOCK_BOOTTIME), but
  means nothing across boots; `boot_id()` tells boots apart.
"""

from __future__ import annotations

import time
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


@lru_cache(maxsize=1)
def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
