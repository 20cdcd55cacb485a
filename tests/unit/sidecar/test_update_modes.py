"""Streaming, polling, and the way from one to the other and back."""

from __future__ import annotations

from random import Random

import pytest

from akpolicy_sidecar.update_modes import JITTER, STREAM_ATTEMPTS, STREAM_RETRY_S, UpdateMode, UpdateModes

STREAM, POLL = UpdateMode.STREAM, UpdateMode.POLL


def modes(configured: UpdateMode = STREAM) -> UpdateModes:
    return UpdateModes(configured, 60.0, Random(1))


def fallen_back() -> UpdateModes:
    found = modes()
    found.stream_failed("UNIMPLEMENTED", 0.0)
    found.polled(0.0, proven=True)
    assert found.is_fallback
    return found


def test_a_host_that_polls_polls_whatever_happens() -> None:
    found = modes(POLL)
    for proven in (True, False, True):
        assert found.next(1e9) is POLL
        found.polled(1e9, proven=proven)
    assert (found.polls, found.is_fallback) == (True, False)


@pytest.mark.parametrize("status", ["UNIMPLEMENTED", "CANCELLED"])
def test_a_server_without_streams_is_polled_at_once(status: str) -> None:
    found = modes()
    assert found.next(0.0) is STREAM
    found.stream_failed(status, 0.0)
    assert found.next(0.0) is POLL
    assert not found.polls
    found.polled(0.0, proven=True)
    assert found.polls


def test_streams_that_fail_are_followed_by_one_poll() -> None:
    found = modes()
    for _ in range(3):
        for _ in range(STREAM_ATTEMPTS):
            assert found.next(0.0) is STREAM
            found.stream_failed("UNAVAILABLE", 0.0)
        assert found.next(0.0) is POLL
        # The server is away for both.
        found.polled(0.0, proven=False)
        assert not found.polls
        assert found.pause_s(0.0) == 0.0


def test_a_server_that_was_only_away_gets_its_streams_back_at_once() -> None:
    found = modes()
    for _ in range(STREAM_ATTEMPTS):
        found.stream_failed("UNAVAILABLE", 10.0)
    found.polled(11.0, proven=True)
    assert (found.is_fallback, found.pause_s(11.0), found.next(11.0)) == (True, 0.0, STREAM)
    # It has none: then not so soon again.
    found.stream_failed("UNAVAILABLE", 12.0)
    assert found.next(12.0) is POLL
    assert found.pause_s(12.0) >= 60 * (1 - JITTER)
    assert found.next(12.0 + STREAM_RETRY_S * (1 - JITTER) - 1) is POLL
    found.stream_proven()
    assert (found.is_fallback, found.next(13.0)) == (False, STREAM)


def test_a_stream_in_between_begins_the_count_anew() -> None:
    found = modes()
    for _ in range(STREAM_ATTEMPTS - 1):
        found.stream_failed("UNAVAILABLE", 0.0)
    found.stream_proven()
    found.stream_failed("UNAVAILABLE", 0.0)
    assert found.next(0.0) is STREAM


def test_a_host_that_fell_back_tries_a_stream_now_and_then() -> None:
    found = fallen_back()
    due = next(at for at in range(10_000) if found.next(float(at)) is STREAM)
    assert STREAM_RETRY_S * (1 - JITTER) <= due <= STREAM_RETRY_S * (1 + JITTER) + 1
    found.stream_failed("UNAVAILABLE", float(due))
    assert found.next(float(due)) is POLL
    assert found.next(due + 2 * STREAM_RETRY_S) is STREAM
    found.stream_proven()
    assert (found.polls, found.next(0.0)) == (False, STREAM)


def test_a_poll_that_fails_does_not_end_the_fallback() -> None:
    found = fallen_back()
    found.polled(1.0, proven=False)
    assert found.next(1.0) is POLL


def test_polls_are_spread_and_end_early_for_a_stream_that_is_due() -> None:
    found = modes(POLL)
    pauses = {found.pause_s(0.0) for _ in range(100)}
    assert len(pauses) > 50
    assert all(60 * (1 - JITTER) <= pause <= 60 * (1 + JITTER) for pause in pauses)
    back = fallen_back()
    assert back.pause_s(STREAM_RETRY_S * (1 + JITTER)) == 0.0
    assert back.pause_s(0.0) >= 60 * (1 - JITTER)


@pytest.mark.parametrize("mode", list(UpdateMode))
def test_a_host_that_streams_does_not_pause(mode: UpdateMode) -> None:
    found = modes(mode)
    found.stream_proven()
    assert (found.pause_s(0.0) == 0.0) == (mode is STREAM)
