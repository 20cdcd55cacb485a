"""What is known of the server's stream: whether it is there.

Rules:

- A stream counts from its first heartbeat on, which answers this connection's nonce: before that, nobody has shown that
  the other end is more than something that takes connections.
- A stream that was silent for three announced intervals is dead.
- While something that the server sent stands refused, the stream does not count: the server has newer policy than what
  is enforced. If it is of a team or user, it does not count for their members, and for everybody else it does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from akpolicy.clock import Moment

SILENT_INTERVALS: Final = 3
MIN_KEEP_ALIVE_S: Final = 0.05
MAX_KEEP_ALIVE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Link:
    """The stream at a moment.

    `heard`: the last message. `proven`: whether the connection that is open now counts. `interval_s`: its interval.
    `behind`: the teams' and users' scopes of which the server has newer policy than what is enforced.
    """

    heard: Moment | None = None
    proven: bool = False
    interval_s: float = MAX_KEEP_ALIVE_S
    behind: frozenset[str] = frozenset()

    def is_live(self, moment: Moment) -> bool:
        """Whether the stream counts and is not silent."""
        return self.proven and self.heard is not None and moment.since(self.heard) <= SILENT_INTERVALS * self.interval_s

    def concerning(self, scopes: Collection[str]) -> Link:
        """Return the link as it is for requests that are judged by these scopes."""
        return self if self.behind.isdisjoint(scopes) else replace(self, proven=False)


class LinkHolder:
    """The one reference to what is known of the stream. The watcher replaces it; any thread reads it."""

    __slots__ = ("current",)

    def __init__(self, link: Link | None = None) -> None:
        """Begin with `link`, by default without a stream."""
        self.current = link or Link()

    def heard(self, moment: Moment) -> None:
        """Note a message on an authenticated stream."""
        self.current = replace(self.current, heard=moment)

    def announced(self, interval_s: float) -> None:
        """Note within how many seconds the next message is due."""
        self.current = replace(self.current, interval_s=bounded_interval(interval_s))

    def proven(self, moment: Moment) -> None:
        """Note that the stream counts from now on."""
        self.current = replace(self.current, heard=moment, proven=True)

    def left_behind(self, scopes: frozenset[str]) -> None:
        """Note of which teams and users the server has newer policy than what is enforced."""
        if self.current.behind != scopes:
            self.current = replace(self.current, behind=scopes)

    def lost(self) -> None:
        """Note that the stream is gone, or does not count any more."""
        self.current = replace(self.current, proven=False)


def bounded_interval(seconds: float) -> float:
    """Return a keep-alive interval within bounds, so that no announcement turns off the detection of a dead stream."""
    return min(max(seconds, MIN_KEEP_ALIVE_S), MAX_KEEP_ALIVE_S)
