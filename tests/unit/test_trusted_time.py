"""What time it is, where the wall clock is not to be believed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.clock import Moment
from akpolicy.errors import ClockJump, ClockRollback
from akpolicy.limits import CLOCK_SKEW_S, MAX_CLOCK_DRIFT, MAX_PROOF_LEAD_S
from akpolicy.trusted_time import TimeProof, proven, time_of

DAY = 86_400.0
HOUR = 3600.0
SIGNED = 1_800_000_000.0
AT = Moment(wall=SIGNED, elapsed=50_000.0, boot_id="this-boot")
PROOF = TimeProof(SIGNED, AT)
JUST = 0.001


def tolerance(passed: float) -> float:
    """Return how far off a wall clock may be after so many seconds by a boot clock that may drift."""
    return CLOCK_SKEW_S + passed * MAX_CLOCK_DRIFT


def later(passed: float, *, wall_off: float = 0.0) -> Moment:
    """Return the moment when `passed` seconds have passed in the same boot; the wall clock is `wall_off` ahead."""
    return Moment(SIGNED + passed + wall_off, AT.elapsed + passed, AT.boot_id)


def rebooted(passed: float, *, wall_off: float = 0.0) -> Moment:
    """Return a moment of the next boot, `passed` seconds after the proof by the wall clock."""
    return Moment(SIGNED + passed + wall_off, 3.0, "next-boot")


# --- without proof ----------------------------------------------------------------------------------------------------


def test_the_wall_clock_is_all_there_is_before_the_first_proof() -> None:
    for wall in (0.0, SIGNED, SIGNED + 900 * DAY):
        assert time_of(None, Moment(wall, 1.0, "b")) == wall


# --- in the boot of the proof -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("passed", [0.0, 1.0, 30 * DAY])
@pytest.mark.parametrize("off", [0.0, 1.0, CLOCK_SKEW_S])
def test_a_clock_that_is_a_little_ahead_is_believed(passed: float, off: float) -> None:
    assert PROOF.now(later(passed, wall_off=off)) == SIGNED + passed + off


@pytest.mark.parametrize("passed", [0.0, 1.0, 30 * DAY])
@pytest.mark.parametrize("off", [-1.0, -CLOCK_SKEW_S])
def test_a_clock_that_is_a_little_behind_is_corrected(passed: float, off: float) -> None:
    assert PROOF.now(later(passed, wall_off=off)) == SIGNED + passed


@pytest.mark.parametrize("passed", [0.0, 30 * DAY])
def test_a_clock_that_was_set_back_is_not_believed(passed: float) -> None:
    with pytest.raises(ClockRollback, match=f"clock is {tolerance(passed):.0f} seconds behind"):
        PROOF.now(later(passed, wall_off=-tolerance(passed) - JUST))
    with pytest.raises(ClockRollback, match="clock is 86400 seconds behind"):
        PROOF.now(later(passed, wall_off=-DAY))


@pytest.mark.parametrize("passed", [0.0, 30 * DAY])
def test_a_clock_that_ran_ahead_is_not_believed(passed: float) -> None:
    with pytest.raises(ClockJump, match=f"clock is {tolerance(passed):.0f} seconds ahead"):
        PROOF.now(later(passed, wall_off=tolerance(passed) + JUST))
    with pytest.raises(ClockJump, match="clock is 86400 seconds ahead"):
        PROOF.now(later(passed, wall_off=DAY))


def test_a_clock_that_is_set_right_again_is_believed_again() -> None:
    for off in (-DAY, DAY):
        with pytest.raises((ClockRollback, ClockJump)):
            PROOF.now(later(10, wall_off=off))
    assert PROOF.now(later(20)) == SIGNED + 20


# --- after a reboot ---------------------------------------------------------------------------------------------------


def test_after_a_reboot_only_the_signed_time_is_proven() -> None:
    assert PROOF.least(later(500)) == SIGNED + 500 * (1 - MAX_CLOCK_DRIFT)
    assert PROOF.least(rebooted(500)) == SIGNED


@pytest.mark.parametrize("passed", [0.0, CLOCK_SKEW_S, CLOCK_SKEW_S + JUST, 300 * DAY])
def test_after_a_reboot_any_later_time_is_believed(passed: float) -> None:
    assert PROOF.now(rebooted(passed)) == SIGNED + passed


def test_after_a_reboot_a_clock_before_the_signed_time_is_corrected_or_refused() -> None:
    assert PROOF.now(rebooted(-CLOCK_SKEW_S)) == SIGNED
    with pytest.raises(ClockRollback):
        PROOF.now(rebooted(-CLOCK_SKEW_S - JUST))


def test_where_boots_cannot_be_told_apart_every_moment_may_be_of_another() -> None:
    unknown = TimeProof(SIGNED, replace(AT, boot_id=""))

    assert unknown.now(replace(later(10, wall_off=DAY), boot_id="")) == SIGNED + 10 + DAY


def test_a_wall_clock_far_ahead_after_a_reboot_is_forgotten_with_it() -> None:
    ahead = rebooted(500, wall_off=DAY)
    assert PROOF.now(ahead) == SIGNED + 500 + DAY

    # Once it is right again, nothing is left of the error.
    assert PROOF.now(rebooted(600)) == SIGNED + 600


# --- what heartbeats prove --------------------------------------------------------------------------------------------


def test_the_first_heartbeat_is_proof_of_the_time_it_was_issued_at() -> None:
    proof = proven(None, SIGNED, later(5), fresh=True)

    assert (proof.now(later(0)), proof.now(later(8)), proof.ahead) == (SIGNED, SIGNED + 8, 0)
    assert proof.least(later(5)) == SIGNED


def test_a_later_heartbeat_moves_the_proof_on() -> None:
    proof = proven(PROOF, SIGNED + 100, later(90), fresh=False)

    assert proof.least(later(90)) == SIGNED + 100


def test_an_older_heartbeat_does_not_move_it_back() -> None:
    for fresh in (False, True):
        proof = proven(PROOF, SIGNED - DAY, later(100), fresh=fresh)
        assert proof.least(later(100)) == SIGNED + 100 * (1 - MAX_CLOCK_DRIFT)


def test_a_signer_whose_clock_is_ahead_leaves_a_margin() -> None:
    proof = proven(PROOF, SIGNED + 10 + CLOCK_SKEW_S, later(10), fresh=True)

    assert proof.least(later(10)) == SIGNED + 10 + MAX_PROOF_LEAD_S
    assert proof.now(later(100, wall_off=MAX_PROOF_LEAD_S - CLOCK_SKEW_S)) == SIGNED + 100 + MAX_PROOF_LEAD_S


@pytest.mark.parametrize("parts_per_million", [-200, -20, 20, 200])
def test_what_a_boot_clock_is_fast_or_slow_does_not_add_up(parts_per_million: int) -> None:
    # A wall clock that is stepped to the right time again and again, and a boot clock that nobody disciplines.
    proof = PROOF
    for passed in range(100, int(60 * DAY), 100):
        moment = Moment(SIGNED + passed, AT.elapsed + passed * (1 + parts_per_million / 1e6), AT.boot_id)
        proof = proven(proof, SIGNED + passed, moment, fresh=False)
        assert proof.now(moment) == pytest.approx(SIGNED + passed, abs=0.1)


@pytest.mark.parametrize("parts_per_million", [-200, 200])
def test_a_boot_clock_that_drifts_while_the_server_is_away_is_no_jump_of_the_wall_clock(parts_per_million: int) -> None:
    for days in (1, 30, 365):
        passed = days * DAY
        moment = Moment(SIGNED + passed, AT.elapsed + passed * (1 + parts_per_million / 1e6), AT.boot_id)
        assert PROOF.now(moment) == pytest.approx(SIGNED + passed, rel=0, abs=passed * 2 * MAX_CLOCK_DRIFT)


def test_a_heartbeat_for_all_does_not_end_a_jump() -> None:
    jumped = later(10, wall_off=HOUR)

    proof = proven(PROOF, SIGNED + 10, jumped, fresh=False)

    with pytest.raises(ClockJump):
        proof.now(jumped)


def test_a_fresh_heartbeat_ends_the_jump_of_a_machine_that_stood_still() -> None:
    resumed = later(10, wall_off=HOUR)

    proof = proven(PROOF, SIGNED + 10 + HOUR, resumed, fresh=True)

    assert proof.ahead == 0
    assert proof.now(resumed) == SIGNED + 10 + HOUR


@pytest.mark.parametrize("off", [CLOCK_SKEW_S + JUST, HOUR, 300 * DAY])
def test_a_clock_that_a_fresh_heartbeat_shows_to_be_wrong_is_not_believed_from_then_on(off: float) -> None:
    proof = proven(PROOF, SIGNED + 10, later(10, wall_off=off), fresh=True)

    assert proof.ahead == pytest.approx(off)
    for passed in (10.0, 11.0, DAY):
        assert proof.now(later(passed, wall_off=off)) == SIGNED + passed


def test_a_clock_that_is_right_enough_is_not_said_to_be_wrong() -> None:
    assert proven(PROOF, SIGNED + 10, later(10, wall_off=CLOCK_SKEW_S), fresh=True).ahead == 0


def test_a_wrong_clock_that_goes_on_being_wrong_by_as_much_is_no_jump_and_one_that_goes_further_is() -> None:
    proof = proven(PROOF, SIGNED, later(0, wall_off=HOUR), fresh=True)

    assert proof.now(later(1, wall_off=HOUR + CLOCK_SKEW_S)) == SIGNED + 1
    with pytest.raises(ClockJump, match="clock is 60 seconds ahead"):
        proof.now(later(1, wall_off=HOUR + tolerance(1) + JUST))


def test_a_wrong_clock_that_is_set_right_is_believed_again() -> None:
    proof = proven(PROOF, SIGNED, later(0, wall_off=HOUR), fresh=True)

    assert proof.now(later(5, wall_off=2.0)) == SIGNED + 7


def test_a_wrong_clock_that_is_set_right_to_within_the_skew_is_believed_again() -> None:
    proof = proven(PROOF, SIGNED, later(0, wall_off=HOUR), fresh=True)

    assert proof.now(later(5, wall_off=CLOCK_SKEW_S)) == SIGNED + 5 + CLOCK_SKEW_S
    assert proof.now(later(5, wall_off=CLOCK_SKEW_S + JUST)) == SIGNED + 5


def test_later_heartbeats_for_all_keep_what_is_known_of_a_wrong_clock() -> None:
    wrong = proven(PROOF, SIGNED, later(0, wall_off=HOUR), fresh=True)

    proof = proven(wrong, SIGNED + 100, later(100, wall_off=HOUR), fresh=False)

    assert proof.now(later(100, wall_off=HOUR)) == SIGNED + 100


def test_what_is_known_of_a_wrong_clock_ends_with_the_boot() -> None:
    wrong = proven(PROOF, SIGNED, later(0, wall_off=HOUR), fresh=True)

    assert wrong.now(rebooted(50, wall_off=HOUR)) == SIGNED + 50 + HOUR
    assert proven(wrong, SIGNED + 50, rebooted(50, wall_off=HOUR), fresh=False).ahead == 0


# --- whatever happens -------------------------------------------------------------------------------------------------


@dataclass
class Machine:
    """A machine with its clocks, and the proof that it has; `true` is the time that nobody on it knows."""

    true: float = SIGNED
    moment: Moment = AT
    proof: TimeProof | None = None
    boots: int = 0
    told: list[float] = field(default_factory=list)

    def do(self, step: tuple[str, float, bool]) -> None:
        what, amount, fresh = step
        if what == "pass":
            self.true += amount
            self.moment = replace(self.moment, wall=self.moment.wall + amount, elapsed=self.moment.elapsed + amount)
        elif what == "set the wall clock":
            self.moment = replace(self.moment, wall=self.true + amount)
        elif what == "stand still":
            self.true += abs(amount)
            self.moment = replace(self.moment, wall=self.moment.wall + abs(amount))
        elif what == "reboot":
            self.true, self.boots = self.true + 60, self.boots + 1
            self.moment = Moment(self.moment.wall + 60, 0.0, f"boot-{self.boots}")
            self.told.clear()
        else:
            # Signed at any time up to now: what the judge lets through may have been held back.
            self.proof = proven(self.proof, self.true - abs(amount), self.moment, fresh=fresh)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pass", "pass", "set the wall clock", "stand still", "reboot", "hear", "hear"]),
        st.sampled_from([0.0, 1.0, 59.0, 60.0, 61.0, HOUR, 40 * DAY]),
        st.booleans(),
    ),
    max_size=12,
)


@given(STEPS)
def test_the_proven_time_never_goes_back(steps: list[tuple[str, float, bool]]) -> None:
    machine = Machine()
    reached = 0.0
    for step in steps:
        machine.do(step)
        if step[0] == "reboot":
            # Only the signed time is left.
            reached = machine.proof.signed_at if machine.proof else 0.0
        if machine.proof is not None:
            least = machine.proof.least(machine.moment)
            assert least >= reached
            reached = least


@given(STEPS)
def test_no_time_is_told_that_is_before_the_proven_one(steps: list[tuple[str, float, bool]]) -> None:
    machine = Machine()
    for step in steps:
        machine.do(step)
        if machine.proof is None:
            continue
        least = machine.proof.least(machine.moment)
        try:
            now = machine.proof.now(machine.moment)
        except (ClockRollback, ClockJump):
            assert abs(machine.moment.wall - least) > CLOCK_SKEW_S
            continue
        assert least <= now <= max(least, machine.moment.wall)


@given(STEPS)
def test_nothing_but_signed_times_and_time_that_passed_moves_the_proof(steps: list[tuple[str, float, bool]]) -> None:
    machine = Machine()
    for step in steps:
        machine.do(step)
        if machine.proof is not None:
            assert machine.proof.least(machine.moment) <= machine.true


@given(STEPS)
def test_within_a_boot_the_time_goes_back_by_no_more_than_the_skew(steps: list[tuple[str, float, bool]]) -> None:
    machine = Machine()
    for step in steps:
        machine.do(step)
        same_boot = machine.proof is not None and machine.moment.is_boot_of(machine.proof.at)
        if machine.proof is None or not same_boot:
            continue
        try:
            now = machine.proof.now(machine.moment)
        except (ClockRollback, ClockJump):
            continue
        assert now >= max(machine.told, default=now) - tolerance(2 * (machine.true - SIGNED))
        machine.told.append(now)


@given(
    st.lists(st.tuples(st.floats(0, 40 * DAY), st.floats(-CLOCK_SKEW_S / 2, CLOCK_SKEW_S / 2)), min_size=1, max_size=8)
)
def test_a_clock_that_is_kept_right_is_always_believed(life: list[tuple[float, float]]) -> None:
    machine = Machine(proof=PROOF)
    for passed, off in life:
        machine.do(("pass", passed, False))
        machine.do(("set the wall clock", off, False))
        assert time_of(machine.proof, machine.moment) == pytest.approx(machine.true, abs=CLOCK_SKEW_S)
        machine.do(("hear", 0.0, True))
