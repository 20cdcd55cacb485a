"""Time that a wall clock cannot fool.

Rules:

- A signed heartbeat proves that the time it was issued at has come; where it is ahead of the wall clock, only up to
  `MAX_PROOF_LEAD_S` of that, so that its signer cannot leave this machine without a margin. From then on the time is
  that, plus what CLOCK_BOOTTIME says has passed since: the *proven* time. After a reboot only the signed time itself is
  proven.
- The next heartbeat moves the proof back by as much as a boot clock may be fast (`MAX_CLOCK_DRIFT`) and no further, so
  that what it is fast does not add up.
- A wall clock that is up to `CLOCK_SKEW_S` off, and by what the boot clock may have drifted, is believed where it is
  ahead, and corrected where it is behind.
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
from akpolicy.limits import CLOCK_SKEW_S, MAX_CLOCK_DRIFT, MAX_PROOF_LEAD_S

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
        return self.signed_at + self._passed(moment) * (1 - MAX_CLOCK_DRIFT)

    def now(self, moment: Moment) -> float:
        """Return the time to judge by, in epoch seconds; raise `ClockRollback` or `ClockJump`."""
        passed = self._passed(moment)
        expected = self.signed_at + passed
        tolerance = CLOCK_SKEW_S + passed * MAX_CLOCK_DRIFT
        ahead = moment.wall - expected
        if ahead < -tolerance:
            msg = f"this machine's clock is {-ahead:.0f} seconds behind a time that has been proven; set it right"
            raise ClockRollback(msg)
        if not moment.is_boot_of(self.at):
            return max(moment.wall, expected)
        if ahead - self.ahead > tolerance:
            msg = (
                f"this machine's clock is {ahead - self.ahead:.0f} seconds ahead of the time that has passed; "
                "a fresh heartbeat of the policy server has to tell the time"
            )
            raise ClockJump(msg)
        return expected if self.ahead and ahead > CLOCK_SKEW_S else max(moment.wall, expected)

    def _passed(self, moment: Moment) -> float:
        """Return how many seconds have passed since the proof, as far as the boot clock can tell."""
        return moment.elapsed - self.at.elapsed if moment.is_boot_of(self.at) else 0.0


def proven(before: TimeProof | None, signed_at: float, moment: Moment, *, fresh: bool) -> TimeProof:
    """Return the proof after a heartbeat that was issued at `signed_at` came at `moment`.

    `fresh` says that it answers a nonce of ours, so that it is of now.
    """
    signed_at = min(signed_at, moment.wall + MAX_PROOF_LEAD_S)
    least = max(signed_at, before.least(moment)) if before is not None else signed_at
    if fresh or before is None or not moment.is_boot_of(before.at):
        ahead = moment.wall - least if fresh else 0.0
        return TimeProof(least, moment, ahead if ahead > CLOCK_SKEW_S else 0.0)
    return TimeProof(least, moment, before.ahead)


def time_of(proof: TimeProof | None, moment: Moment) -> float:
    """Return the time to judge by: `proof.now`, or the wall clock where nothing has been proven yet."""
    return moment.wall if proof is None else proof.now(moment)
