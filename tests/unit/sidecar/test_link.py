"""What is known of the stream, moment by moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.clock import Moment
from akpolicy_sidecar.link import (
    MAX_KEEP_ALIVE_S,
    MIN_KEEP_ALIVE_S,
    SILENT_INTERVALS,
    Link,
    LinkHolder,
    bounded_interval,
)

NOW = Moment(wall=1_800_000_000.0, elapsed=50_000.0, boot_id="this-boot")


def after(seconds: float) -> Moment:
    return replace(NOW, wall=NOW.wall + seconds, elapsed=NOW.elapsed + seconds)


def test_a_message_alone_does_not_make_the_stream_count() -> None:
    links = LinkHolder()

    links.heard(NOW)

    assert links.current.heard == NOW
    assert not links.current.is_live(NOW)


def test_a_stream_counts_until_it_is_silent_for_three_intervals() -> None:
    links = LinkHolder()
    links.announced(10.0)
    links.proven(NOW)

    assert links.current.is_live(after(SILENT_INTERVALS * 10))
    assert not links.current.is_live(after(SILENT_INTERVALS * 10 + 0.001))


def test_any_message_ends_the_silence_of_a_stream_that_counts() -> None:
    links = LinkHolder()
    links.announced(10.0)
    links.proven(NOW)

    links.heard(after(40))

    assert links.current.is_live(after(70))


def test_a_lost_stream_does_not_count_until_it_is_proven_again() -> None:
    links = LinkHolder()
    links.proven(NOW)

    links.lost()
    links.heard(after(1))
    assert not links.current.is_live(after(1))

    links.proven(after(2))
    assert links.current.is_live(after(2))


def test_a_wall_clock_that_is_set_does_not_make_the_stream_silent() -> None:
    links = LinkHolder()
    links.proven(NOW)

    for wall in (0.0, NOW.wall + 1e9):
        assert links.current.is_live(replace(after(1), wall=wall))


def test_before_an_interval_is_announced_the_longest_counts() -> None:
    assert Link(heard=NOW, proven=True).is_live(after(SILENT_INTERVALS * MAX_KEEP_ALIVE_S))


@pytest.mark.parametrize(
    ("announced", "kept"), [(1e9, MAX_KEEP_ALIVE_S), (300.1, 300.0), (30.0, 30.0), (0.0, MIN_KEEP_ALIVE_S)]
)
def test_no_announcement_turns_off_the_detection_of_silence(announced: float, kept: float) -> None:
    links = LinkHolder()

    links.announced(announced)

    assert links.current.interval_s == bounded_interval(announced) == kept


@given(st.lists(st.sampled_from(["heard", "announced", "lost"])))
def test_nothing_but_the_answer_to_the_nonce_makes_a_stream_count(events: list[str]) -> None:
    links = LinkHolder()
    for seconds, event in enumerate(events):
        if event == "heard":
            links.heard(after(seconds))
        elif event == "announced":
            links.announced(30.0)
        else:
            links.lost()

    assert not links.current.is_live(after(len(events)))
