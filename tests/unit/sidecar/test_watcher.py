"""The stream on a real server's socket: kept, given up and opened anew, and following the credentials on disk."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import HeartbeatStale
from akpolicy_sidecar import watcher as module
from akpolicy_sidecar.call_ends import MAX_ASKED_S
from akpolicy_sidecar.link import MAX_KEEP_ALIVE_S
from tests.simulators.org import DAY
from tests.simulators.policy_server import PolicyServerSimulator
from tests.simulators.waiting import wait_until
from tests.unit.sidecar.watching_host import WatchingHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.v1 import distribution_pb2 as pb


@pytest.fixture
def host(tmp_path: Path) -> Iterator[WatchingHost]:
    made = WatchingHost(tmp_path)
    yield made
    made.scene.close()


@pytest.fixture
def server(host: WatchingHost) -> Iterator[PolicyServerSimulator]:
    with PolicyServerSimulator(host.scene.org, keep_alive_s=0.1, api_key="first") as running:
        running.publish()
        yield running


@pytest.fixture
def no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the wait between attempts longer than any test."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 1e9)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 1e9)


def test_a_new_key_ends_the_wait_after_a_refusal(
    host: WatchingHost, server: PolicyServerSimulator, no_retry: None
) -> None:
    server.accept(api_key="second")
    with host.watching(server) as watcher:
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")
        watcher.check_credentials()
        assert not host.is_live()
        host.write_key("second")

        def is_live() -> bool:
            watcher.check_credentials()
            return host.is_live()

        wait_until(is_live)
        assert host.trouble == ""


def test_a_key_file_that_becomes_usable_ends_the_wait(
    host: WatchingHost, server: PolicyServerSimulator, no_retry: None
) -> None:
    host.key_file.chmod(0o644)
    with host.watching(server) as watcher:
        wait_until(lambda: host.trouble == "ConfigError")
        assert server.hellos == []
        host.key_file.chmod(0o600)

        def is_live() -> bool:
            watcher.check_credentials()
            return host.is_live()

        wait_until(is_live)


def test_stop_ends_the_wait(host: WatchingHost, server: PolicyServerSimulator, no_retry: None) -> None:
    server.refuse()
    with host.watching(server):
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")


def test_a_host_comes_back_when_the_server_asks_it_to(host: WatchingHost, server: PolicyServerSimulator) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        server.drop_streams(retry_after="100000000000000000000")
        wait_until(lambda: host.trouble == "UNAVAILABLE")
        wait_until(lambda: watcher.asked_s == MAX_ASKED_S)
        # However long it is asked to wait: a new key is tried at once.
        server.accept(api_key="second")
        host.write_key("second")

        def is_live() -> bool:
            watcher.check_credentials()
            return host.is_live()

        wait_until(is_live)
        assert not watcher.asked_s


@pytest.mark.parametrize("retry_after", ["0", "-1", "soon", "1.5", ""])
def test_what_is_no_time_to_come_back_is_not_waited_for(
    host: WatchingHost, server: PolicyServerSimulator, retry_after: str
) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        server.drop_streams(retry_after)
        server.wait_for(lambda s: len(s.hellos) == 2)
        wait_until(host.is_live)
        assert not watcher.asked_s


def test_a_new_key_replaces_an_open_stream_and_contact_is_not_lost(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        losses = host.links.losses
        for number, key in enumerate(("second", "third"), start=2):
            server.accept(api_key=key)
            host.write_key(key)
            watcher.check_credentials()
            watcher.check_credentials()
            assert host.is_live()
            server.wait_for(lambda s, number=number: len(s.hellos) == number)  # type: ignore[misc]
            server.publish()
            server.wait_enforced("global", number)
            assert host.is_live()
        assert host.links.losses == losses
        assert host.trouble == ""
        wait_until(lambda: server.open_streams == 1)


def test_a_new_key_that_is_refused_loses_contact_and_what_is_enforced_stays(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        enforced = host.scene.versions
        host.write_key("wrong")
        watcher.check_credentials()
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")
        assert not host.is_live()
        assert host.scene.versions == enforced == {"global": 1}


def test_a_key_that_cannot_be_used_leaves_the_open_stream_alone(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        for content in ("", "two words", "first"):
            host.write_key(content)
            watcher.check_credentials()
        server.publish()
        server.wait_enforced("global", 2)
        assert len(server.hellos) == 1


# --- silence, and what is wrong with the host -------------------------------------------------------------------------


@pytest.fixture
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave hardly any wait between attempts."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.01)


def test_a_stream_that_is_silent_for_three_intervals_is_opened_anew(
    host: WatchingHost, server: PolicyServerSimulator, quick_retry: None
) -> None:
    with host.watching(server) as watcher:
        wait_until(lambda: host.is_live() and host.links.current.interval_s == 0.1)
        server.go_silent()
        wait_until(lambda: watcher._session is not None and watcher._session.waiting_since is not None)
        host.scene.clock.advance(0.29)
        watcher.check_silence()
        assert watcher._call.is_active()

        def is_opened_anew() -> bool:
            host.scene.clock.advance(0.1)
            watcher.check_silence()
            return len(server.hellos) >= 2

        wait_until(is_opened_anew)
        assert not host.is_live()
        server.speak()
        wait_until(host.is_live)


def test_what_is_wrong_with_the_host_reaches_the_server(host: WatchingHost, server: PolicyServerSimulator) -> None:
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        for _ in range(3):
            watcher.tell(HeartbeatStale("old"))
        nack = server.wait_nack("HeartbeatStale")
        assert (nack.nonce, nack.detail) == (b"", "old")
        watcher.tell(None)
        watcher.tell(HeartbeatStale("older"))
        server.wait_for(lambda s: [n.detail for n in s.nacks] == ["old", "older"])


def test_nothing_is_told_while_there_is_no_stream(
    host: WatchingHost, server: PolicyServerSimulator, no_retry: None
) -> None:
    server.refuse()
    with host.watching(server) as watcher:
        wait_until(lambda: host.trouble == "UNAUTHENTICATED")
        watcher.tell(HeartbeatStale("old"))
        watcher.check_silence()
    assert server.nacks == []


def test_a_clock_that_jumped_is_answered_by_a_new_connection(
    host: WatchingHost, server: PolicyServerSimulator, quick_retry: None
) -> None:
    with host.watching(server) as watcher:
        wait_until(lambda: host.is_live() and host.scene.standing().source is PolicySource.LIVE)
        # The machine stood still for a day: its boot clock did not notice, server and wall clock did.
        host.scene.clock.set_wall(host.scene.clock.now() + DAY)
        standing = host.scene.viewer.look().standing
        assert standing.denial is Reason.CLOCK_UNTRUSTED

        watcher.tell(standing.error)
        server.wait_nack("ClockJump")
        assert len(server.hellos) == 1
        watcher.tell(standing.error)

        wait_until(lambda: host.scene.viewer.look().standing.source is PolicySource.LIVE)
        assert len(server.hellos) == 2


def test_a_refused_first_heartbeat_is_asked_for_by_another_stream_and_takes_no_contact(
    host: WatchingHost, server: PolicyServerSimulator, no_retry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.holding() as office:
        wrong = office.heartbeat(nonce="00" * 16)

    def change(message: pb.SubscribeResponse) -> list[pb.SubscribeResponse]:
        # No silence is to be a reason to give the stream up.
        if message.HasField("keep_alive"):
            message.keep_alive.interval_ms = int(MAX_KEEP_ALIVE_S * 1000)
        return [wrong] if message.HasField("heartbeat") and is_wrong else [message]

    with host.watching(server) as watcher:
        # Of all that is drawn for waits between streams; what was waited on a stream is not waited again.
        monkeypatch.setattr(watcher, "_jitter", _Shortest())
        wait_until(host.is_live)
        losses = host.links.losses
        is_wrong = True
        server.tamper(change)
        server.accept(api_key="second")
        host.write_key("second")
        watcher.check_credentials()

        for number in (2, 3):
            server.wait_for(lambda s, number=number: len(s.hellos) == number)  # type: ignore[misc]
            server.wait_for(lambda s, number=number: len(s.nacks) == number - 1)  # type: ignore[misc]
            watcher.check_silence()
            assert watcher._call.is_active()
            if number == 3:
                is_wrong = False

            def is_given_up(number: int = number) -> bool:
                host.scene.clock.advance(0.05)
                watcher.check_silence()
                return len(server.hellos) > number

            wait_until(is_given_up)
        assert {nack.code for nack in server.nacks} == {"HeartbeatNonceMismatch"}
        wait_until(host.is_live)
        assert host.trouble == ""
        assert host.links.losses == losses
        assert not host.modes.is_fallback


def test_a_server_without_heartbeats_is_no_contact(host: WatchingHost, server: PolicyServerSimulator) -> None:
    server.withhold_heartbeats()
    with host.watching(server):
        server.wait_enforced("global", 1)
        assert not host.is_live()
        assert host.scene.viewer.look().standing.denial is Reason.NO_POLICY
        server.deliver_heartbeats()
        wait_until(host.is_live)
        wait_until(lambda: host.scene.viewer.look().standing.source is PolicySource.LIVE)


def test_roots_and_rollbacks_are_followed_on_the_open_stream(host: WatchingHost, server: PolicyServerSimulator) -> None:
    with host.watching(server):
        wait_until(host.is_live)
        earlier = server.current()
        server.publish()
        server.offer_root(*(server.org.root_envelope(version=version) for version in (2, 3)))
        server.roll_back(earlier)
        server.wait_enforced("global", 3)
        server.wait_for(lambda s: any(ack.root_version == 3 for ack in s.acks))
        assert host.is_live()
        assert server.nacks == []


def test_a_host_turns_to_the_server_that_is_left(host: WatchingHost, server: PolicyServerSimulator) -> None:
    with (
        PolicyServerSimulator(host.scene.org, keep_alive_s=0.1, api_key="first") as other,
        host.watching(server, other),
    ):
        wait_until(lambda: len(server.hellos) + len(other.hellos))
        one, another = (server, other) if server.hellos else (other, server)
        one.drop_streams()
        wait_until(lambda: len(another.hellos))


class _Shortest(random.Random):
    """Draws the shortest of all waits."""

    def uniform(self, a: float, b: float) -> float:
        return a


class _Longest(random.Random):
    """Draws the longest of all waits, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.drawn.append(b)
        return b


def test_a_host_that_lost_the_server_comes_back_within_what_the_server_spreads(
    host: WatchingHost, server: PolicyServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tamper(lambda message: _with_spread(message, 40_000))
    with host.watching(server) as watcher:
        longest = _Longest()
        monkeypatch.setattr(watcher, "_jitter", longest)
        wait_until(host.is_live)
        wait_until(lambda: watcher._session is not None and watcher._session.spread_s == 40)
        server.drop_streams()
        wait_until(lambda: 40 in longest.drawn)
        # A new key is tried at once all the same.
        server.accept(api_key="second")
        host.write_key("second")

        def is_live() -> bool:
            watcher.check_credentials()
            return host.is_live()

        wait_until(is_live)


@pytest.mark.parametrize(
    ("asked_s", "spread_s", "longest"), [(None, 0, 0), (None, 16, 16), (None, 1e9, 60), (0.0, 16, 0), (7.0, 16, 7)]
)
def test_what_the_server_asks_for_is_spread_already(asked_s: float | None, spread_s: float, longest: float) -> None:
    assert module.least_pause_s(asked_s, spread_s, _Longest()) == longest
    drawn = [module.least_pause_s(asked_s, spread_s, random.Random(seed)) for seed in range(200)]
    assert max(drawn) <= longest
    assert asked_s is not None or min(drawn) <= longest / 10


@pytest.mark.parametrize(("asked_s", "rest_s"), [(None, 0.0), (0.015625, 0.0), (0.0625, 0.03125)])
def test_the_moment_before_each_connection_counts_as_a_part_of_what_the_server_asks_for(
    host: WatchingHost,
    server: PolicyServerSimulator,
    monkeypatch: pytest.MonkeyPatch,
    asked_s: float | None,
    rest_s: float,
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.03125)
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        monkeypatch.setattr(watcher, "_jitter", _Longest())
        monkeypatch.setattr(watcher, "_asked_s", asked_s)

        assert watcher._rest_s() == rest_s


def _with_spread(message: pb.SubscribeResponse, spread_ms: int) -> list[pb.SubscribeResponse]:
    if message.HasField("keep_alive"):
        message.keep_alive.spread_ms = spread_ms
    return [message]
