"""By which way updates come: over a stream, or by polling.

Rules:

- A host that is configured to poll polls. A host that is configured to stream streams, for as long as that can be had.
- A stream cannot be had if the server or something before it knows none (UNIMPLEMENTED), if it was silent for so long
  that it was given up (CANCELLED: whoever is in between may wait for its end), or if `STREAM_ATTEMPTS` in a row brought
  no heartbeat. Then one poll is tried. If it brings a heartbeat, the host polls from now on (it falls
  back); if not, the server is away, and streams are tried on, with a poll among them now and then.
- One that fell back because nothing answered tries a stream again at once: a server that was only away has streams.
- A host that fell back tries a stream again every `STREAM_RETRY_S`. That costs it no contact: while such an attempt
  fails, what the last poll proved goes on to count. A stream that brings a heartbeat ends the fallback.

No network, no clock and no thread here: times are handed in, in seconds since boot.
"""

from __future__ import annotations

from enum import StrEnum
from random import SystemRandom
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

STREAM_ATTEMPTS: Final = 3
STREAM_RETRY_S: Final = 300.0
# A wait is this much shorter or longer at random, so that hosts that began together do not go on together.
JITTER: Final = 0.2

_NO_STREAMS: Final = frozenset({"UNIMPLEMENTED", "CANCELLED"})


class UpdateMode(StrEnum):
    """How a host gets its policy."""

    STREAM = "stream"
    POLL = "poll"


class UpdateModes:
    """Says how the next attempt goes. The watcher's thread alone uses it."""

    def __init__(self, configured: UpdateMode, poll_interval_s: float, random: Random | None = None) -> None:
        """`poll_interval_s`: how long to wait between polls, in seconds."""
        self.poll_interval_s = poll_interval_s
        self._configured = configured
        self._random = random or SystemRandom()
        self._failures = 0
        self._trying_poll = False
        self._knows_no_streams = False
        self._fallen_back = False
        self._stream_due = 0.0

    @property
    def is_fallback(self) -> bool:
        """Whether this host polls because it cannot have a stream."""
        return self._fallen_back

    @property
    def polls(self) -> bool:
        """Whether updates come by polling."""
        return self._configured is UpdateMode.POLL or self._fallen_back

    def next(self, elapsed: float) -> UpdateMode:
        """Return how to ask now."""
        if self._configured is UpdateMode.POLL:
            return UpdateMode.POLL
        if self._fallen_back:
            return UpdateMode.STREAM if elapsed >= self._stream_due else UpdateMode.POLL
        return UpdateMode.POLL if self._trying_poll else UpdateMode.STREAM

    def stream_proven(self) -> None:
        """Note that a stream brought a heartbeat."""
        self._failures, self._trying_poll, self._fallen_back = 0, False, False

    def stream_failed(self, status: str, elapsed: float) -> None:
        """Note that a stream brought no heartbeat, and how it ended (a gRPC status, or a code of ours)."""
        if self._fallen_back:
            self._wait_for_stream(elapsed)
            return
        self._failures += 1
        self._knows_no_streams = status in _NO_STREAMS
        self._trying_poll = self._knows_no_streams or self._failures % STREAM_ATTEMPTS == 0

    def polled(self, elapsed: float, *, proven: bool) -> None:
        """Note that a poll ended, and whether it brought a heartbeat."""
        if self._trying_poll and proven:
            self._fallen_back = True
            if self._knows_no_streams:
                self._wait_for_stream(elapsed)
            else:
                # It was away, maybe, and is back: the next stream will tell, and costs no contact.
                self._stream_due = elapsed
        self._trying_poll = False

    def pause_s(self, elapsed: float) -> float:
        """Return how long to wait after a poll that brought a heartbeat; 0 while updates come over a stream."""
        if not self.polls:
            return 0.0
        pause = self._about(self.poll_interval_s)
        return min(pause, max(0.0, self._stream_due - elapsed)) if self._fallen_back else pause

    def _wait_for_stream(self, elapsed: float) -> None:
        self._stream_due = elapsed + self._about(STREAM_RETRY_S)

    def _about(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - JITTER, 1 + JITTER)
