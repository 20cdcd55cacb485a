"""Times as people read them: RFC 3339 in UTC, and how far from now.

A time is in whole epoch seconds and may come from a document that nobody verified: what no calendar has is shown as the
number that it is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_SEVERAL: Final = 2  # of a unit: "47 hours", but "2 days"


def rfc3339_of(seconds: int) -> str:
    """Return epoch seconds as RFC 3339 in UTC: `2026-01-31T09:00:00Z`."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds since 1970"


def relative(seconds: int, now: float) -> str:
    """Return how far a time is from now: `in 29 days`, `5 minutes ago`, `now`."""
    distance = seconds - int(now)
    if distance == 0:
        return "now"
    text = duration(abs(distance))
    return f"in {text}" if distance > 0 else f"{text} ago"


def duration(seconds: int) -> str:
    """Return a number of seconds in the largest unit that it has at least two of: `29 days`, `90 seconds`."""
    for size, name in _UNITS:
        count = seconds // size
        if count >= _SEVERAL or size == 1:
            return f"{count} {name}{'' if count == 1 else 's'}"
    raise AssertionError(seconds)  # a second is the last unit


def instant(seconds: int, now: float) -> str:
    """Return a time both ways: `2026-01-31T09:00:00Z (in 29 days)`."""
    return f"{rfc3339_of(seconds)} ({relative(seconds, now)})"
