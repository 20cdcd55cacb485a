"""The time of a command: read where it is needed, from the machine's clock."""

from __future__ import annotations


def now() -> int:
    """Return the time in whole epoch seconds."""
    from akpolicy.clock import SystemClock

    return int(SystemClock().now())
