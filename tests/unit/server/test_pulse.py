"""Heartbeats: what they say, when there is a new one, and what happens while there is none."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from akpolicy import metrics_names as names
from akpolicy.heartbeat import Heartbeat
from akpolicy.strict_json import load
from akpolicy_server.first_root import DAY_S
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.pulse import RETRY_S, Pulse, SignedHeartbeat
from akpolicy_server.signatory import Signatory
from akpolicy_server.threads import Threads
from tests.unit.server.follower import (
    Follower,
    current_root,
    heartbeat_role,
    new_signers,
    next_root,
    with_keys,
)
from tests.unit.server.test_rollbacks import publish
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from akpolicy.keys import PublicKey
    from akpolicy_server.views import OrgView
    from tests.unit.server.conftest import Core

NONCE = b"n" * 16
LIFETIME_S = 300


@pytest.fixture
def threads() -> Iterator[Threads]:
    with closing(Threads()) as running:
        yield running


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def pulse(core: Core, threads: Threads, metrics: ServerMetrics) -> Pulse:
    return Pulse(core.signatory, threads, core.clock, metrics, lifetime_s=LIFETIME_S)


def beat(made: Callable[[], Awaitable[SignedHeartbeat | None]]) -> SignedHeartbeat:
    """Return a heartbeat that must be there."""

    async def once() -> SignedHeartbeat | None:
        return await made()

    found = asyncio.run(once())
    assert found is not None
    return found


def none(made: Callable[[], Awaitable[SignedHeartbeat | None]]) -> bool:
    """Return whether there is no heartbeat."""

    async def once() -> SignedHeartbeat | None:
        return await made()

    return asyncio.run(once()) is None


def believed(core: Core, view: OrgView, *beats: tuple[SignedHeartbeat, bytes | None]) -> None:
    """Take heartbeats in order, as a host with the view does."""
    host = Follower(core)
    host.follow()
    for sent, nonce in beats:
        verified = host.judge.judge_heartbeat(
            sent.envelope, view.index.text, core.clock.now(), nonce=nonce.hex() if nonce else None
        )
        host.judge.accept_heartbeat(verified)


def test_a_host_believes_the_heartbeat_that_answers_it_and_the_shared_ones_after_it(core: Core, pulse: Pulse) -> None:
    publish(core, "a")
    view = view_of(core)
    first = beat(lambda: pulse.fresh(view, NONCE))
    heartbeat = load(first.envelope.payload, Heartbeat)
    assert (heartbeat.seq, heartbeat.org, heartbeat.nonce) == (view.seq, "acme", NONCE.hex())
    assert heartbeat.expires_at - heartbeat.issued_at == LIFETIME_S
    assert (heartbeat.root.digest, heartbeat.index.digest) == (view.root.digest, view.index.digest)
    core.clock.advance(LIFETIME_S / 3)
    second = beat(lambda: pulse.shared(view))
    believed(core, view, (first, NONCE), (second, None))
    publish(core, "b")
    changed = view_of(core)
    third = beat(lambda: pulse.shared(changed))
    assert third.seq == second.seq + 1
    believed(core, changed, (third, None))


def test_all_streams_of_an_org_share_one_signature_for_a_third_of_its_life(
    core: Core, pulse: Pulse, metrics: ServerMetrics
) -> None:
    view = view_of(core)

    async def many() -> set[SignedHeartbeat | None]:
        return set(await asyncio.gather(*(pulse.shared(view) for _ in range(50))))

    [first] = asyncio.run(many())
    assert metrics.value(names.SERVER_HEARTBEATS_SIGNED) == 1
    core.clock.advance(LIFETIME_S / 3 - 1)
    assert asyncio.run(many()) == {first}
    core.clock.advance(1)
    [second] = asyncio.run(many())
    assert second is not None
    assert first is not None
    assert second.is_later(first)
    assert metrics.value(names.SERVER_HEARTBEATS_SIGNED) == 2


def test_within_one_second_there_is_no_second_one(core: Core, threads: Threads, metrics: ServerMetrics) -> None:
    hasty = Pulse(core.signatory, threads, core.clock, metrics, lifetime_s=1)
    view = view_of(core)
    first = beat(lambda: hasty.shared(view))
    core.clock.advance(0.9)
    assert beat(lambda: hasty.shared(view)) is first
    core.clock.advance(0.1)
    assert beat(lambda: hasty.shared(view)).is_later(first)


def test_an_older_view_gets_no_heartbeat_that_names_a_newer_one(core: Core, pulse: Pulse) -> None:
    old = view_of(core)
    publish(core, "a")
    new = view_of(core)
    beat(lambda: pulse.shared(new))
    assert none(lambda: pulse.shared(old))


def test_a_clock_that_was_set_back_does_not_silence_new_streams(core: Core, pulse: Pulse) -> None:
    view = view_of(core)
    core.clock.advance(7200)
    ahead = beat(lambda: pulse.shared(view))
    core.clock.set_wall(core.clock.now() - 3600)
    now = beat(lambda: pulse.shared(view))
    assert now.issued_at == ahead.issued_at - 3600
    assert not now.is_later(ahead)
    believed(core, view, (beat(lambda: pulse.fresh(view, NONCE)), NONCE))


def test_a_heartbeat_ends_with_its_key(core: Core, pulse: Pulse) -> None:
    role = current_root(core).roles.heartbeat
    assert role is not None
    key = core.vault.load(role.keys[0]).public_key
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", key, valid_for=100)))
    view = view_of(core)
    made = beat(lambda: pulse.fresh(view, NONCE))
    assert made.expires_at - made.issued_at == 100
    core.clock.advance(100)
    assert none(lambda: pulse.fresh(view, NONCE))


def _without_role(core: Core) -> None:
    core.roots.publish(core.admin, "acme", next_root(core, roles=heartbeat_role(core, "acme")))


def _with_a_foreign_key(core: Core) -> None:
    foreign: PublicKey = new_signers(1)[0].public_key
    keys = with_keys(core, "acme", foreign)
    core.roots.publish(core.admin, "acme", next_root(core, keys=keys, roles=heartbeat_role(core, "acme", foreign)))


def _without_file(core: Core) -> None:
    role = current_root(core).roles.heartbeat
    assert role is not None
    core.vault.path(role.keys[0]).unlink()


def _with_an_open_file(core: Core) -> None:
    role = current_root(core).roles.heartbeat
    assert role is not None
    core.vault.path(role.keys[0]).chmod(0o644)


def _under_an_expired_root(core: Core) -> None:
    core.clock.advance(365 * DAY_S)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (_without_role, "KeyNotAuthorised"),
        (_with_a_foreign_key, "SignersMissing"),
        (_without_file, "SignersMissing"),
        (_with_an_open_file, "KeyFileError"),
        (_under_an_expired_root, "RootExpired"),
    ],
)
def test_what_cannot_be_signed_is_said_once_counted_and_tried_again(
    core: Core, pulse: Pulse, metrics: ServerMetrics, harm: Callable[[Core], None], code: str
) -> None:
    harm(core)
    view = view_of(core)
    with capture_logs() as logs:
        for _ in range(3):
            assert none(lambda: pulse.shared(view))
            assert none(lambda: pulse.fresh(view, NONCE))
        assert metrics.value(names.SERVER_HEARTBEAT_FAILURES) == 1
        core.clock.advance(RETRY_S)
        assert none(lambda: pulse.shared(view))
    assert [entry["code"] for entry in logs if entry["event"] == "hosts of an org get no heartbeats"] == [code]
    assert metrics.value(names.SERVER_HEARTBEAT_FAILURES) == 2
    assert metrics.value(names.SERVER_HEARTBEATS_SIGNED) == 0


def test_a_key_that_comes_back_is_used_again(core: Core, pulse: Pulse) -> None:
    _with_an_open_file(core)
    view = view_of(core)
    assert none(lambda: pulse.shared(view))
    role = current_root(core).roles.heartbeat
    assert role is not None
    core.vault.path(role.keys[0]).chmod(0o600)
    core.clock.advance(RETRY_S)
    with capture_logs() as logs:
        beat(lambda: pulse.shared(view))
    assert [entry["event"] for entry in logs] == ["heartbeats go on"]


def test_the_last_one_serves_on_while_the_next_cannot_be_signed(core: Core, pulse: Pulse) -> None:
    view = view_of(core)
    last = beat(lambda: pulse.shared(view))
    _with_an_open_file(core)
    core.clock.advance(LIFETIME_S - 1)
    assert beat(lambda: pulse.shared(view)) == last
    core.clock.advance(1)
    assert none(lambda: pulse.shared(view))


def test_a_slow_signer_keeps_nobody_else_waiting(core: Core, threads: Threads, metrics: ServerMetrics) -> None:
    role = current_root(core).roles.heartbeat
    assert role is not None
    key = core.vault.load(role.keys[0])
    released = threading.Event()

    class Slow:
        """A key service that takes its time."""

        public_key = key.public_key

        def sign(self, message: bytes) -> bytes:
            assert released.wait(30)
            return key.sign(message)

        def close(self) -> None:
            """Nothing is open."""

    slow = Pulse(Signatory(core.vault, [Slow()]), threads, core.clock, metrics, lifetime_s=LIFETIME_S)
    acme, globex = view_of(core), view_of(core, "globex")

    async def scenario() -> None:
        waiting = slow.fresh(acme, NONCE)
        assert await slow.fresh(globex, NONCE) is not None
        assert await threads.database(view_of, core) == acme
        assert not waiting.done()
        released.set()
        assert await waiting is not None

    asyncio.run(scenario())


def test_later_is_a_higher_seq_or_a_later_second(core: Core, pulse: Pulse) -> None:
    view = view_of(core)
    one = beat(lambda: pulse.fresh(view, NONCE))
    assert one.is_later(None)
    assert not one.is_later(one)
    assert replace(one, issued_at=one.issued_at + 1).is_later(one)
    assert replace(one, seq=one.seq + 1, issued_at=one.issued_at - 1).is_later(one)
    assert not replace(one, seq=one.seq - 1, issued_at=one.issued_at + 9).is_later(one)
