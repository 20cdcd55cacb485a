"""The clock's seconds as the integers that documents and the database keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from akpolicy.clock import Clock

MICROSECONDS: Final = 1_000_000
# A host with a stream that was not seen for so long is gone.
GONE_AFTER_S: Final = 90
GONE_AFTER_US: Final = GONE_AFTER_S * MICROSECONDS


def now_us(clock: Clock) -> int:
    """Return the wall clock in epoch microseconds."""
    return int(clock.now() * MICROSECONDS)
