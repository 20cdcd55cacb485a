"""Times for people."""

from __future__ import annotations

import pytest

from akpolicy.instants import duration, instant, relative, rfc3339_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7199, "119 minutes"),
        (7200, "2 hours"),
        (2 * 86_400 - 1, "47 hours"),
        (30 * 86_400, "30 days"),
    ],
)
def test_a_duration_is_said_in_the_largest_unit_that_is_not_one(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_a_time_says_how_far_it_is() -> None:
    assert instant(1_800_000_000, 1_800_000_000 - 3 * 86_400) == "2027-01-15T08:00:00Z (in 3 days)"
    assert relative(1_800_000_000, 1_800_000_300.9) == "5 minutes ago"
    assert relative(5, 5.5) == "now"


def test_a_number_that_no_calendar_has_is_shown_as_it_is() -> None:
    assert rfc3339_of(2**53 - 1) == "9007199254740991 seconds since 1970"
