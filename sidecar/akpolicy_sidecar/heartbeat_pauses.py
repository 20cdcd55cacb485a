"""How long a stream whose first heartbeat was refused stays before another one asks with a new nonce.

Rules:

- A server answers a nonce once. If that answer is refused, nothing that follows on this stream can be believed
  (`HeartbeatNonceMismatch`), however right it is by then: only another stream brings a heartbeat that counts.
- The first pause is short, since what was wrong is often mended at once; each further one in a row is twice as long, up
  to `MAX_HEARTBEAT_PAUSE_S`, and drawn from its upper half: hosts that refused together do not ask together.
- A heartbeat that is believed, and a root or bundle that is new and right, begin the row anew. The latter have to be
  signed each time: who can only repeat or invent messages cannot bring it about.
- Meanwhile the stream stays open, and what comes over it is taken.
"""

from __future__ import annotations

import math
from random import SystemRandom
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

# The Nack must be out by then: half of it is the shortest pause.
FIRST_HEARTBEAT_PAUSE_S: Final = 1.0
MAX_HEARTBEAT_PAUSE_S: Final = 30.0
LEAST_PART: Final = 0.5
# Beyond that the pause is the longest one in any case; no power of two grows without bound.
_MAX_DOUBLINGS: Final = 16


class HeartbeatPauses:
    """Draws the pauses of a host, over all its streams. The watcher's thread alone uses it."""

    def __init__(self, random: Random | None = None) -> None:
        """Begin with the shortest one."""
        self._random = random or SystemRandom()
        self._drawn = 0

    def next_s(self) -> float:
        """Return how long to wait before a heartbeat that was refused is asked for again, in seconds."""
        longest = min(MAX_HEARTBEAT_PAUSE_S, math.ldexp(FIRST_HEARTBEAT_PAUSE_S, min(self._drawn, _MAX_DOUBLINGS)))
        self._drawn += 1
        return longest * self._random.uniform(LEAST_PART, 1.0)

    def begin_anew(self) -> None:
        """Let the next pause be a short one."""
        self._drawn = 0
