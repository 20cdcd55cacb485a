"""Readings of the clocks, and what lies between two of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from akpolicy.clock import Moment, SystemClock
from tests.simulators.clock import ManualClock

DAY = 86_400.0
NOW = Moment(wall=1_800_000_000.0, elapsed=50_000.0, boot_id="this-boot")


def after(seconds: float, start: Moment = NOW) -> Moment:
    return replace(start, wall=start.wall + seconds, elapsed=start.elapsed + seconds)


@pytest.mark.parametrize("wall", [0.0, NOW.wall, NOW.wall + 900 * DAY])
def test_within_a_boot_the_wall_clock_does_not_matter(wall: float) -> None:
    assert replace(after(7), wall=wall).since(NOW) == pytest.approx(7)


def test_across_boots_the_wall_clock_counts() -> None:
    assert replace(after(90), elapsed=3.0, boot_id="next-boot").since(NOW) == pytest.approx(90)


def test_a_wall_clock_that_went_back_across_boots_tells_nothing() -> None:
    assert Moment(wall=NOW.wall - 1, elapsed=3.0, boot_id="next-boot").since(NOW) == math.inf


def test_an_unknown_boot_is_never_taken_for_the_same_boot() -> None:
    earlier = replace(NOW, boot_id="")
    later = replace(earlier, wall=NOW.wall + 50, elapsed=NOW.elapsed + 1)

    assert not later.is_boot_of(earlier)
    assert later.since(earlier) == pytest.approx(50)


def test_a_boot_clock_that_went_back_is_that_of_another_boot() -> None:
    assert not replace(NOW, elapsed=NOW.elapsed - 1).is_boot_of(NOW)
    assert NOW.is_boot_of(NOW)


def test_a_moment_reads_every_clock_once() -> None:
    clock = ManualClock()

    assert Moment.read(clock) == Moment(clock.now(), clock.elapsed(), clock.boot_id())


def test_the_machine_has_a_boot_clock_that_goes_on() -> None:
    earlier, later = (Moment.read(SystemClock()) for _ in range(2))

    assert later.is_boot_of(earlier)
    assert later.since(earlier) >= 0
