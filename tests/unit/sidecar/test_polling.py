"""Polling on a real server's socket: the same documents, the same verdicts, and what is said of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy import metrics_names as names
from akpolicy.errors import ClockJump
from akpolicy_sidecar import update_modes as module
from akpolicy_sidecar import watcher as watching
from akpolicy_sidecar.update_modes import UpdateMode, UpdateModes
from tests.simulators.policy_server import PolicyServerSimulator
from tests.simulators.waiting import wait_until
from tests.unit.sidecar.state_files import PERMIT
from tests.unit.sidecar.watching_host import WatchingHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.v1 import distribution_pb2 as pb

SOON = 0.05


@pytest.fixture
def host(tmp_path: Path) -> Iterator[WatchingHost]:
    made = WatchingHost(tmp_path, UpdateModes(UpdateMode.POLL, SOON))
    yield made
    made.scene.close()


@pytest.fixture
def server(host: WatchingHost) -> Iterator[PolicyServerSimulator]:
    with PolicyServerSimulator(host.scene.org, keep_alive_s=0.1) as running:
        running.publish()
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(watching, "MAX_BACKOFF_S", 0.05)


def streaming(host: WatchingHost) -> WatchingHost:
    """Let a host stream by its configuration."""
    host.modes = UpdateModes(UpdateMode.STREAM, SOON)
    return host


def mode_of(host: WatchingHost) -> str:
    found: str = host.scene.report.trouble["update_mode"]
    return found


def enforced(report: pb.ReportRequest) -> dict[str, int]:
    return {revision.scope: revision.version for revision in report.enforced}


def test_a_polling_host_enforces_what_it_fetches_and_says_so_once(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server):
        wait_until(host.is_live)
        server.wait_for(lambda s: len(s.polls) >= 3)
        server.publish(PERMIT)
        server.wait_for(lambda s: len(s.reports) >= 2)
        server.wait_for(lambda s: s.polls[-1].enforces_index)
    first, second = server.reports
    assert (enforced(first), enforced(second)) == ({"global": 1}, {"global": 2})
    assert first.org == "acme"
    assert len({poll.hello.nonce for poll in server.polls}) == len(server.polls)
    # All is said once; then the index stands for it.
    assert [poll.enforces_index for poll in server.polls] == [False] + [True] * (len(server.polls) - 1)
    short = server.polls[1:]
    assert all(poll.hello.index_digest and not poll.hello.enforced and not poll.hello.held_blobs for poll in short)
    assert mode_of(host) == "poll"
    assert host.scene.metrics.value(names.SIDECAR_UPDATE_MODE, mode="poll") == 1
    assert server.hellos == []


def test_a_server_that_does_not_know_the_index_is_told_all_in_the_same_poll(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server):
        wait_until(host.is_live)
        server.wait_for(lambda s: any(poll.enforces_index for poll in s.polls))
        losses = host.links.losses
        server.forget_indexes()
        server.wait_for(lambda s: [poll.enforces_index for poll in s.polls].count(False) == 2)
        asked, told = next(pair for pair in pairwise(server.polls) if not pair[1].enforces_index)
        assert (asked.enforces_index, asked.hello.nonce) == (True, told.hello.nonce)
        assert [revision.version for revision in told.hello.enforced] == [1]
        server.wait_for(lambda s: s.polls[-1].enforces_index)
        assert host.links.losses == losses


def test_a_report_that_is_not_taken_is_followed_by_a_poll_that_says_all(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    server.only(reports=grpc.StatusCode.UNAVAILABLE)
    with host.watching(server):
        wait_until(host.is_live)
        server.wait_for(lambda s: len(s.polls) >= 2)
        assert not server.polls[1].enforces_index
        assert host.trouble == ""
        server.only()
        server.wait_for(lambda s: s.polls[-1].enforces_index)


def test_a_document_that_is_not_signed_is_refused_and_what_was_enforced_stays(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    def forge(response: pb.SubscribeResponse) -> list[pb.SubscribeResponse]:
        if response.WhichOneof("message") == "bundle":
            response.bundle.envelope.payload = response.bundle.envelope.payload.replace(b'"global"', b'"globaL"')
        return [response]

    with host.watching(server):
        wait_until(host.is_live)
        server.tamper(forge)
        server.publish(PERMIT)
        server.wait_for(lambda s: any(report.refused for report in s.reports))
        (refused,) = next(report.refused for report in server.reports if report.refused)
        assert (refused.scope, refused.version, refused.code) == ("global", 2, "SignatureInvalid")
        wait_until(lambda: not host.is_live())
        assert [bundle.version for bundle in host.scene.updater.revisions] == [1]
        server.tamper(None)
        wait_until(host.is_live)
        assert [bundle.version for bundle in host.scene.updater.revisions] == [2]


def test_a_heartbeat_of_an_earlier_poll_answers_nothing(host: WatchingHost, server: PolicyServerSimulator) -> None:
    kept: list[pb.SubscribeResponse] = []

    def replay(response: pb.SubscribeResponse) -> list[pb.SubscribeResponse]:
        if response.WhichOneof("message") == "heartbeat":
            kept.append(response)
            return [kept[0]]
        return [response]

    server.tamper(replay)
    with host.watching(server):
        wait_until(host.is_live)
        server.wait_for(lambda s: any(report.refused for report in s.reports))
        (refused,) = next(report.refused for report in server.reports if report.refused)
        assert (refused.scope, refused.code) == ("", "HeartbeatNonceMismatch")


def test_a_poll_that_fails_ends_contact_and_the_next_one_that_does_not_brings_it_back(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server):
        wait_until(host.is_live)
        server.only(polls=grpc.StatusCode.UNAVAILABLE)
        wait_until(lambda: host.trouble == "UNAVAILABLE")
        assert not host.is_live()
        server.only()
        wait_until(host.is_live)
        assert host.trouble == ""


def test_a_poll_without_a_heartbeat_is_tried_again_and_takes_nothing(
    host: WatchingHost, server: PolicyServerSimulator
) -> None:
    with host.watching(server):
        wait_until(host.is_live)
        losses = host.links.losses
        server.withhold_heartbeats()
        wait_until(lambda: host.trouble == "OK")
        assert host.links.losses == losses
        server.deliver_heartbeats()
        wait_until(lambda: host.trouble == "")


def test_a_clock_that_jumped_is_asked_about_at_once(host: WatchingHost, server: PolicyServerSimulator) -> None:
    host.modes = UpdateModes(UpdateMode.POLL, 1e6)
    with host.watching(server) as watcher:
        wait_until(host.is_live)
        wait_until(lambda: watcher._session is None)
        polls = len(server.polls)
        watcher.tell(ClockJump("ahead"))
        server.wait_for(lambda s: len(s.polls) == polls + 1)
        server.wait_for(lambda s: any(r.code == "ClockJump" for report in s.reports for r in report.refused))


def test_a_host_that_cannot_have_a_stream_polls_and_says_so(host: WatchingHost, server: PolicyServerSimulator) -> None:
    server.only(streams=grpc.StatusCode.UNIMPLEMENTED)
    with streaming(host).watching(server):
        wait_until(host.is_live)
        assert mode_of(host) == "poll"
        assert host.scene.metrics.value(names.SIDECAR_UPDATE_MODE, mode="poll") == 1
        server.publish(PERMIT)
        server.wait_for(lambda s: any(enforced(report) == {"global": 2} for report in s.reports))


def test_streams_that_break_are_given_up_after_some_and_tried_again(
    host: WatchingHost, server: PolicyServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM_RETRY_S", 0.1)
    server.only(streams=grpc.StatusCode.UNAVAILABLE)
    with streaming(host).watching(server):
        wait_until(lambda: mode_of(host) == "poll")
        # Streams are tried in between, and what polls prove goes on to count meanwhile.
        losses, polls = host.links.losses, len(server.polls)

        def later() -> bool:
            host.scene.clock.advance(1)
            return len(server.polls) >= polls + 6

        wait_until(later)
        assert server.refused_streams > module.STREAM_ATTEMPTS
        assert host.links.losses == losses
        wait_until(host.is_live)
        server.only()

        def streams_again() -> bool:
            host.scene.clock.advance(1)
            return mode_of(host) == "stream"

        wait_until(streams_again)
        wait_until(host.is_live)
        polls = len(server.polls)
        server.publish(PERMIT)
        server.wait_enforced("global", 2)
        assert len(server.polls) == polls
        assert host.scene.metrics.value(names.SIDECAR_UPDATE_MODE, mode="poll") == 0


def test_a_stream_that_stays_silent_is_given_up_for_a_poll(host: WatchingHost, server: PolicyServerSimulator) -> None:
    server.go_silent()
    with streaming(host).watching(server) as watcher:
        server.wait_for(lambda s: s.open_streams == 1)

        def given_up() -> bool:
            host.scene.clock.advance(10)
            watcher.check_silence()
            return mode_of(host) == "poll"

        wait_until(given_up)
        wait_until(host.is_live)
        assert len(server.hellos) == 1


def test_new_credentials_are_no_reason_to_poll(host: WatchingHost, server: PolicyServerSimulator) -> None:
    server.go_silent()
    with streaming(host).watching(server) as watcher:
        for number in range(1, 2 * module.STREAM_ATTEMPTS):
            wait_until(lambda number=number: len(server.hellos) == number)  # type: ignore[misc]
            host.write_key(f"key-{number}")

            def reconnects(number: int = number) -> bool:
                watcher.check_credentials()
                return len(server.hellos) > number

            wait_until(reconnects)
        assert server.polls == []


def test_a_server_that_is_away_is_no_reason_to_poll(host: WatchingHost, server: PolicyServerSimulator) -> None:
    server.only(streams=grpc.StatusCode.UNAVAILABLE, polls=grpc.StatusCode.UNAVAILABLE)
    with streaming(host).watching(server):
        server.wait_for(lambda s: len(s.polls) >= 2)
        assert mode_of(host) == ""
        server.only()
        wait_until(host.is_live)
        assert mode_of(host) == "stream"


def test_stop_ends_the_wait_between_polls(host: WatchingHost, server: PolicyServerSimulator) -> None:
    host.modes = UpdateModes(UpdateMode.POLL, 1e6)
    with host.watching(server):
        wait_until(host.is_live)
