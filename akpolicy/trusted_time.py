"""Time that a wall clock cannot fool.

Rules:

- A signed heartbeat proves that the time it was issued at has come. From then on the time is at least that, plus what
  CLOCK_BOOTTIME says has passed since: the *proven* time. After a reboot only the signed time itself is proven.
- A wall clock that is up to `CLOCK_SKEW_S` off is believed where it is ahead, and corrected where it is behind.
- Further behind than that, it was set back: `ClockRollback`, until it is right again.
- Further ahead in the boot of the proof: `ClockJump`. Either the machine stood still (a virtual machine that was
  resumed), or somebody moved the clock; nobody can tell, so nothing is decided by policy. A heartbeat with a nonce of
  ours is proof of the time of now: it ends the jump, and a wall clock that is ahead of it is known to be wrong by so
  much from then on and not believed.
- After a reboot the wall clock may be far ahead: the machine may have been off for so long. It then counts, which can
  only make things expire, and is forgotten with it: nothing but signed times moves the proof.
- Nobody can move the proof far ahead of the wall clock: a heartbeat from beyond `CLOCK_SKEW_S` is refused by the judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy.errors import ClockJump, ClockRollback
from akpolicy.limits import CLOCK_SKEW_S

if TYPE_CHECKING:
    from akpolicy.clock import Moment


@dataclass(frozen=True, slots=True)
class TimeProof:
    """That it was `signed_at` (epoch seconds) or later at the moment `at`.

    `ahead` is by how many seconds the wall clock is known to be wrong; 0 if it was right enough.
    """

    signed_at: float
    at: Moment
    ahead: float = 0.0

    def least(self, moment: Moment) -> float:
        """Return the time that it is at least, in epoch seconds."""
        return self.signed_at + (moment.elapsed - self.at.elapsed if moment.is_boot_of(self.at) else 0.0)

    def now(self, moment: Moment) -> float:
        """Return the time to judge by, in epoch seconds; raise `ClockRollback` or `ClockJump`."""
        least = self.least(moment)
        ahead = moment.wall - least
        if ahead < -CLOCK_SKEW_S:
            msg = f"this machine's clock is {-ahead:.0f} seconds behind a time that has been proven; set it right"
            raise ClockRollback(msg)
        if ahead <= CLOCK_SKEW_S or not moment.is_boot_of(self.at):
            return max(moment.wall, least)
        if ahead - self.ahead <= CLOCK_SKEW_S:
            return least
        msg = (
            f"this machine's clock is {ahead - self.ahead:.0f} seconds ahead of the time that has passed; "
            "a fresh heartbeat of the policy server has to tell the time"
        )
        raise ClockJump(msg)


def proven(before: TimeProof | None, signed_at: float, moment: Moment, *, fresh: bool) -> TimeProof:
    """Return the proof after a heartbeat that was issued at `signed_at` came at `moment`.

    `fresh` says that it answers a nonce of ours, so that it is of now.
    """
    least = max(signed_at, before.least(moment)) if before is not None else signed_at
    if fresh or before is None or not moment.is_boot_of(before.at):
        ahead = moment.wall - least if fresh else 0.0
        return TimeProof(least, moment, ahead if ahead > CLOCK_SKEW_S else 0.0)
    return TimeProof(least, moment, before.ahead)


def time_of(proof: TimeProof | None, moment: Moment) -> float:
    """Return the time to judge by: `proof.now`, or the wall clock where nothing has been proven yet."""
    return moment.wall if proof is None else proof.now(moment)
