"""Attacks by time: what is out of its time, and clocks that are moved (A-77 to A-86)."""

from __future__ import annotations

from typing import Any

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import (
    BundleExpired,
    ClockJump,
    ClockRollback,
    IssuedInFuture,
    LifetimeTooLong,
    NotYetValid,
)
from akpolicy.limits import CLOCK_SKEW_S, MAX_BUNDLE_LIFETIME_S, MAX_HEARTBEAT_LIFETIME_S
from tests.attacks.stage import FORBID, ORG, REGISTER, Attack, Stage, bundle_of
from tests.simulators.org import DAY


def at(**offsets: int) -> dict[str, int]:
    return offsets


TIMES = REGISTER.table(
    (77, "an expired bundle is refused", BundleExpired, lambda: at(issued_at=-10, not_before=-10, expires_at=0)),
    (78, "a bundle issued in 61 s is refused", IssuedInFuture, lambda: at(issued_at=CLOCK_SKEW_S + 1)),
    (79, "a bundle that is valid in 61 s is refused", NotYetValid, lambda: at(not_before=CLOCK_SKEW_S + 1)),
    (80, "a bundle that lives too long is refused", LifetimeTooLong, lambda: at(expires_at=MAX_BUNDLE_LIFETIME_S + 1)),
)


@pytest.mark.parametrize("attack", TIMES, ids=str)
def test_a_bundle_out_of_its_time_is_refused(stage: Stage, attack: Attack) -> None:
    now = int(stage.host.clock.now())
    fields = {name: now + offset for name, offset in attack.act().items()}
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, FORBID, **fields)))


HEARTBEATS = REGISTER.table(
    (78, "a heartbeat from the future is refused", IssuedInFuture, lambda: at(issued_at=61, expires_at=300)),
    (
        81,
        "a heartbeat that lives too long is refused",
        LifetimeTooLong,
        lambda: at(expires_at=MAX_HEARTBEAT_LIFETIME_S + 1),
    ),
)


@pytest.mark.parametrize("attack", HEARTBEATS, ids=str)
def test_a_heartbeat_out_of_its_time_is_refused(stage: Stage, attack: Attack) -> None:
    now = int(stage.host.clock.now())
    fields = {name: now + offset for name, offset in attack.act().items()}
    stage.office.seq += 1
    stage.refuses(attack, [stage.office.heartbeat(**fields)])


# --- clocks -----------------------------------------------------------------------------------------------------------


def assert_clock_denies(stage: Stage, code: str) -> None:
    """Assert that everything is denied for the clock, that this is counted once and told to the server."""
    nacks, counted = len(stage.host.nacks), stage.host.counted(code)
    standing = stage.host.standing()
    assert (standing.denial, type(standing.error).__name__) == (Reason.CLOCK_UNTRUSTED, code)
    stage.host.standing()
    assert stage.host.nacks[nacks:] == [code]
    assert stage.host.counted(code) == counted + 1
    assert stage.host.decide() is None


@REGISTER.single(82, "a clock that is set back within a boot is noticed", ClockRollback)
def test_a_clock_that_is_set_back_denies(stage: Stage, attack: Attack) -> None:
    before = stage.facts()
    stage.host.clock.advance(3600)
    stage.host.connect()
    stage.host.clock.set_wall(stage.host.clock.now() - CLOCK_SKEW_S - 1)
    assert_clock_denies(stage, "ClockRollback")
    # Nothing is taken by such a clock either.
    stage.office.publish(FORBID, scope=ORG)
    stage.refuses_without_policy(attack, stage.office.bundle(ORG))
    assert stage.facts() == before
    # Set right, it is as if nothing had been.
    stage.host.clock.set_wall(stage.host.clock.now() + CLOCK_SKEW_S + 1)
    stage.assert_decides()


@REGISTER.single(82, "an expired bundle is not revived by setting the clock back", ClockRollback)
def test_setting_the_clock_back_revives_nothing(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(31 * DAY)
    assert stage.host.standing().denial is Reason.BUNDLE_EXPIRED
    stage.host.clock.set_wall(stage.host.clock.now() - 30 * DAY)
    assert_clock_denies(stage, "ClockRollback")


@REGISTER.single(83, "a clock that is set back across a reboot is noticed", ClockRollback)
def test_a_clock_that_is_set_back_across_a_reboot_denies(stage: Stage, attack: Attack) -> None:
    before = stage.facts()
    stage.host.clock.reboot()
    stage.host.clock.set_wall(stage.host.clock.now() - DAY)
    stage.host = stage.host.restart()
    assert stage.host.troubles == ()
    assert_clock_denies(stage, "ClockRollback")
    assert stage.facts() == before
    stage.host.clock.set_wall(stage.host.clock.now() + DAY)
    stage.assert_decides()


@REGISTER.single(84, "a clock that jumps ahead denies", ClockJump)
def test_a_clock_that_jumps_ahead_denies_and_is_not_remembered(stage: Stage, attack: Attack) -> None:
    before = stage.facts()
    wall = stage.host.clock.now()
    stage.host.clock.set_wall(wall + CLOCK_SKEW_S + 1)
    assert_clock_denies(stage, "ClockJump")
    # One of the heartbeats that everybody gets does not tell which clock is right.
    stage.office.seq += 1
    stage.refuses_without_policy(attack, [stage.office.heartbeat()])
    stage.host = stage.host.restart()
    assert stage.host.standing().denial is Reason.CLOCK_UNTRUSTED
    assert stage.facts() == before
    # Back where it was, nothing of the jump is left.
    stage.host.clock.set_wall(wall)
    stage.assert_decides()


@REGISTER.single(85, "a heartbeat that answers a fresh nonce ends a jump", None)
def test_a_fresh_heartbeat_ends_a_jump(stage: Stage, attack: Attack) -> None:
    # A virtual machine that stood still for an hour: the wall clock is right, the boot clock knows nothing of it.
    stage.host.clock.set_wall(stage.host.clock.now() + 3600)
    assert stage.host.decide() is None
    stage.host.connect()
    assert stage.host.standing().error is None
    stage.assert_decides()


@REGISTER.single(85, "a wall clock that a fresh heartbeat proves wrong is not believed", None)
def test_a_clock_that_is_known_to_be_wrong_makes_nothing_expire(stage: Stage, attack: Attack) -> None:
    server_time = stage.host.clock.now()
    stage.host.clock.set_wall(server_time + 40 * DAY)
    times: dict[str, Any] = {"issued_at": int(server_time), "expires_at": int(server_time) + 300}
    stage.host.connect(**times)
    assert stage.host.standing().error is None
    stage.assert_decides()


@REGISTER.single(86, "59 seconds of skew are fine", None)
@pytest.mark.parametrize("skew", [-59, 59])
def test_small_differences_of_clocks_are_fine(stage: Stage, attack: Attack, skew: int) -> None:
    now = int(stage.host.clock.now())
    stage.host.clock.set_wall(now + skew)
    stage.office.publish(FORBID, scope=ORG, issued_at=now, not_before=now)
    stage.host.hear(*stage.office.bundle(ORG)).beat(issued_at=now, expires_at=now + 300)
    assert stage.host.nacks == []
    assert stage.host.versions[ORG] == 3
    stage.assert_decides()
