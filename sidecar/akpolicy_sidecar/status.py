"""Whether this host may decide by policy at a moment, and by which.

Rules, in this order; the first that applies denies:

1. No verified policy denies with NO_POLICY: there is no layer, a layer that was accepted earlier cannot be loaded, or
   the server has not yet once delivered all that it holds for this host.
2. An expired layer denies with BUNDLE_EXPIRED, in every offline mode. It is never skipped.
3. A live stream is fresh: this connection has caught up and was heard within three keep-alive intervals.
4. Without one the offline mode decides (`offline`): `fail_closed` denies with POLICY_STALE; `cached_with_expiry` does
   once the age is above its maximum; `cached_indefinite` does not; `default_policy` goes over to the embedded default
   policy together with the forbids of the snapshot.

The age counts from the last message on an authenticated stream: by the clock that never goes back within a boot, by the
wall clock across boots. A wall clock that went back since makes the age infinite. The last contact is kept on disk, so
that neither a restart nor a touched file makes old policy young.

Expiry is judged by the wall clock, but by no earlier time than the last contact plus what has passed since: without the
server, setting the clock back does not revive a bundle. (With it, the next contact is by the clock as it is then.)
Nothing here reads a clock; a `Moment` is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from akpolicy.bundle import OfflineMode
from akpolicy.decision import PolicySource, Reason

if TYPE_CHECKING:
    from akpolicy.clock import Clock
    from akpolicy_sidecar.offline import OfflineRule
    from akpolicy_sidecar.snapshot import Snapshot

SILENT_INTERVALS: Final = 3
MIN_KEEP_ALIVE_S: Final = 0.05
MAX_KEEP_ALIVE_S: Final = 300.0
AGE_UNKNOWN_MS: Final = -1


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

    def since(self, earlier: Moment) -> float:
        """Return the seconds from `earlier` to this moment; infinite if the clocks cannot tell."""
        if self.boot_id and self.boot_id == earlier.boot_id and self.elapsed >= earlier.elapsed:
            return self.elapsed - earlier.elapsed
        seconds = self.wall - earlier.wall
        return seconds if seconds >= 0 else math.inf

    def wall_not_before(self, earlier: Moment | None) -> float:
        """Return the wall clock's time, or what it must be at least if `earlier` was right."""
        if earlier is None:
            return self.wall
        passed = self.since(earlier)
        return max(self.wall, earlier.wall + (passed if math.isfinite(passed) else 0.0))


@dataclass(frozen=True, slots=True)
class Link:
    """What is known of the server's stream.

    `heard`: the last message on an authenticated stream, of this run or an earlier one. `complete`: whether the server
    has ever delivered all that it holds. `caught_up`: whether it has on the connection that is open now. `interval_s`:
    the keep-alive interval that it announced there.
    """

    heard: Moment | None = None
    complete: bool = False
    caught_up: bool = False
    interval_s: float = MAX_KEEP_ALIVE_S

    def is_silent(self, moment: Moment) -> bool:
        """Whether the stream has been silent for so long that it counts as dead."""
        return self.heard is None or moment.since(self.heard) > SILENT_INTERVALS * self.interval_s

    def is_live(self, moment: Moment) -> bool:
        """Whether the stream is up, complete and not silent."""
        return self.caught_up and not self.is_silent(moment)


class LinkHolder:
    """The one reference to what is known of the stream. The watcher replaces it; any thread reads it."""

    __slots__ = ("current",)

    def __init__(self, link: Link) -> None:
        """Begin with `link`."""
        self.current = link

    def heard(self, moment: Moment) -> None:
        """Note a message on an authenticated stream."""
        self.current = replace(self.current, heard=moment)

    def caught_up(self, moment: Moment, interval_s: float) -> None:
        """Note that the server has sent all it holds for this host; the next message is due within `interval_s`."""
        self.current = Link(heard=moment, complete=True, caught_up=True, interval_s=bounded_interval(interval_s))

    def lost(self) -> None:
        """Note that the connection is gone."""
        self.current = replace(self.current, caught_up=False)


def bounded_interval(seconds: float) -> float:
    """Return a keep-alive interval within bounds, so that no announcement turns off the detection of a dead stream."""
    return min(max(seconds, MIN_KEEP_ALIVE_S), MAX_KEEP_ALIVE_S)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether policy may decide at a moment.

    `denial` is the reason to deny everything, None if policies decide; `by_default` says that the embedded default
    policy replaces the permits of the snapshot. `age_ms` is -1 if the age is unknown.
    """

    denial: Reason | None
    message: str
    mode: OfflineMode
    source: PolicySource
    age_ms: int
    by_default: bool = False

    @property
    def ready(self) -> bool:
        """Whether decisions can be made by policy."""
        return self.denial is None


def stand(snapshot: Snapshot, link: Link, moment: Moment) -> Standing:
    """Judge whether `snapshot` may decide at `moment`."""
    age = moment.since(link.heard) if link.heard else math.inf
    live = link.is_live(moment)
    standing = Standing(
        denial=None,
        message="",
        mode=snapshot.rule.mode,
        source=PolicySource.LIVE if live else PolicySource.CACHE,
        age_ms=int(age * 1000) if math.isfinite(age) else AGE_UNKNOWN_MS,
    )
    # (1) there is verified policy, and all of it
    if message := _no_policy(snapshot, link):
        return replace(standing, denial=Reason.NO_POLICY, message=message, source=PolicySource.NONE)
    # (2) none of it has expired
    if message := _expired(snapshot, moment.wall_not_before(link.heard)):
        return replace(standing, denial=Reason.BUNDLE_EXPIRED, message=message)
    # (3) it is fresh, (4) or may be used all the same
    return standing if live else _offline(standing, snapshot.rule, age)


def _offline(standing: Standing, rule: OfflineRule, age: float) -> Standing:
    if rule.mode is OfflineMode.FAIL_CLOSED:
        message = "denied: the policy server cannot be reached and the offline mode is fail_closed"
        return replace(standing, denial=Reason.POLICY_STALE, message=message)
    if rule.mode is OfflineMode.CACHED_INDEFINITE or age <= rule.max_age_s:
        return standing
    if rule.mode is OfflineMode.DEFAULT_POLICY:
        return replace(standing, source=PolicySource.DEFAULT, by_default=True)
    return replace(standing, denial=Reason.POLICY_STALE, message=_stale_message(age, rule.max_age_s))


def _no_policy(snapshot: Snapshot, link: Link) -> str:
    """Return why there is no policy to decide by; empty if there is."""
    if snapshot.missing:
        names = ", ".join(f"`{scope}`" for scope in snapshot.missing)
        return f"denied: the kept policy of {names} cannot be loaded; the server has to deliver it again"
    if not snapshot.layers:
        return "denied: no verified policy is here yet"
    if not link.complete:
        return "denied: the policy server has not yet delivered all policies for this host"
    return ""


def _expired(snapshot: Snapshot, wall: float) -> str:
    if snapshot.expires_at is None or wall < snapshot.expires_at:
        return ""
    names = ", ".join(f"`{layer.scope}`" for layer in snapshot.layers if wall >= layer.expires_at)
    return f"denied: the policy of {names} is past its signed expiry; it has to be published again"


def _stale_message(age: float, max_age_s: float) -> str:
    if math.isinf(age):
        return "denied: the age of the policy is unknown (this machine's clock went back); the server has to be reached"
    return f"denied: the policy server was last heard {int(age)} seconds ago, more than the allowed {int(max_age_s)}"
