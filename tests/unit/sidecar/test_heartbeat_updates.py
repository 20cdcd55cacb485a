"""Heartbeats with real signatures: what they vouch for, and that they change nothing that is enforced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import (
    AkpolicyError,
    ClockJump,
    ClockRollback,
    Equivocation,
    HeartbeatReplay,
    HeartbeatStale,
    IssuedInFuture,
    RootChainGap,
    RootExpired,
    RootMissing,
)
from akpolicy.limits import MAX_ANSWER_DELAY_S, MAX_PROOF_LEAD_S
from akpolicy.wire import envelope_from_proto
from akpolicy_sidecar.freshness import Confirmation
from akpolicy_sidecar.heartbeat_updates import Question
from tests.simulators.office import Held
from tests.simulators.org import DAY, HEARTBEAT_LIFETIME_S

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}
HOUR = 3600


def take(host: HostSimulator, *, nonce: str | None = None, index: bytes | None = None, **beat: Any) -> None:
    """Apply a heartbeat without a stream; `nonce` is the one that it must answer, and does."""
    update = host.office.heartbeat(**{**({"nonce": nonce} if nonce else {}), **beat}).heartbeat
    question = Question(nonce, host.clock.elapsed()) if nonce else None
    host.updater.apply_heartbeat(envelope_from_proto(update.envelope), update.index or index, question)


def refused(host: HostSimulator, error: type[AkpolicyError], **beat: Any) -> None:
    """Assert that a heartbeat is refused with this error, and that nothing is as if it had come."""
    before = host.facts()
    with pytest.raises(error) as caught:
        take(host, **beat)
    assert type(caught.value) is error
    assert host.facts() == before


@pytest.fixture
def enforcing(host: HostSimulator) -> HostSimulator:
    """A host that enforces both its scopes."""
    return host.update(PERMIT).update(FORBID, scope="org/acme")


# --- what is vouched for ----------------------------------------------------------------------------------------------


def test_a_heartbeat_vouches_for_what_its_index_names(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(100)

    take(enforcing)

    now = int(enforcing.clock.now())
    renewed = Confirmation(now, now + HEARTBEAT_LIFETIME_S)
    freshness = enforcing.snapshots.current.freshness
    assert (freshness.by_scope, freshness.whole) == ({"global": renewed, "org/acme": renewed}, renewed)


def test_a_heartbeat_changes_nothing_that_is_enforced(enforcing: HostSimulator) -> None:
    layers, scopes = enforcing.snapshots.current.layers, enforcing.directory.state.scopes
    enforcing.office.publish(FORBID)
    enforcing.office.delete("org/acme")

    enforcing.clock.advance(1)
    take(enforcing)

    assert (enforcing.snapshots.current.layers, enforcing.directory.state.scopes) == (layers, scopes)


def test_what_it_says_is_seen_by_the_next_decision(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(HEARTBEAT_LIFETIME_S)
    assert not enforcing.standing().fresh

    take(enforcing)

    standing = enforcing.standing()
    assert (standing.fresh, standing.age_ms) == (True, 0)


def test_what_it_says_survives_a_restart(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(100)
    take(enforcing)

    again = enforcing.restart()

    assert again.snapshots.current.freshness == enforcing.snapshots.current.freshness
    assert again.standing().age_ms == 0
    # A replay is one after a restart, too.
    refused(again, HeartbeatReplay, index=b"")


def test_the_index_of_an_org_without_policy_is_empty(new_host: HostSimulator) -> None:
    new_host.connect()

    assert new_host.nacks == []
    assert new_host.updater.evidence_count == 0
    assert new_host.snapshots.current.freshness.whole is not None
    assert new_host.standing().denial is Reason.NO_POLICY


def test_an_index_that_is_known_need_not_come_again(enforcing: HostSimulator) -> None:
    known = bytes.fromhex(enforcing.updater.holdings.index_digest)
    enforcing.clock.advance(1)

    take(enforcing, known_index=known)

    assert enforcing.standing().age_ms == 0


def test_after_a_restart_no_index_is_known(enforcing: HostSimulator) -> None:
    assert enforcing.updater.holdings.index_digest != ""
    assert enforcing.restart().updater.holdings.index_digest == ""


def test_a_heartbeat_that_cannot_be_written_is_believed_all_the_same(enforcing: HostSimulator) -> None:
    # The first change of a run writes `state.json`, and nothing can be renamed over a directory.
    enforcing = enforcing.restart()
    before = enforcing.directory.state
    enforcing.clock.advance(100)
    (enforcing.place / "state.json").rename(enforcing.place.parent / "moved")
    (enforcing.place / "state.json").mkdir()

    take(enforcing)

    assert enforcing.directory.state == before
    assert enforcing.counted("CacheWriteFailed") == 1
    assert enforcing.standing().age_ms == 0
    (enforcing.place / "state.json").rmdir()
    (enforcing.place.parent / "moved").rename(enforcing.place / "state.json")
    assert enforcing.restart().standing().age_ms == 100_000


# --- what is refused --------------------------------------------------------------------------------------------------


def test_nothing_is_vouched_for_before_a_root_is_trusted(new_host: HostSimulator) -> None:
    refused(new_host, RootMissing)


def test_a_heartbeat_about_a_root_that_did_not_come_yet_is_refused(enforcing: HostSimulator) -> None:
    enforcing.office.rotate()

    refused(enforcing, RootChainGap)


def test_a_heartbeat_of_later_than_now_is_refused(enforcing: HostSimulator) -> None:
    now = int(enforcing.clock.now())
    late = {"issued_at": now + 61, "expires_at": now + 100}

    refused(enforcing, IssuedInFuture, **late)

    take(enforcing, issued_at=now + 60, expires_at=now + 100)
    assert enforcing.snapshots.current.proof is not None
    assert enforcing.snapshots.current.proof.least(enforcing.moment()) == now + MAX_PROOF_LEAD_S


def test_a_heartbeat_under_an_expired_root_is_refused(new_host: HostSimulator) -> None:
    new_host.office.roots = [new_host.org.root_envelope(expires_at=int(new_host.clock.now()) + 100)]
    new_host.connect()
    new_host.clock.advance(100)

    refused(new_host, RootExpired)


def test_two_indexes_of_one_seq_are_evidence(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(1)
    other = enforcing.org.bundle_envelope("global", FORBID)[0]

    refused(enforcing, Equivocation, about=[other])

    assert enforcing.updater.evidence_count == 2


def test_after_a_restart_there_is_one_index_of_the_seq_to_keep(enforcing: HostSimulator) -> None:
    again = enforcing.restart()

    with pytest.raises(Equivocation):
        take(again, about=[])

    assert again.updater.evidence_count == 1


def test_another_root_of_the_trusted_version_is_evidence(enforcing: HostSimulator) -> None:
    enforcing.office.seq += 1
    other = enforcing.org.root_envelope(expires_at=int(enforcing.clock.now()) + DAY)

    refused(enforcing, Equivocation, about_root=other)

    assert enforcing.updater.evidence_count == 2


def test_an_index_that_was_changed_on_the_way_is_no_evidence(enforcing: HostSimulator) -> None:
    # Nobody signs the text of an index: whoever passes it on can spoil it, and must not fill the place for evidence.
    enforcing.clock.advance(1)
    enforcing.office.publish(FORBID)
    good = enforcing.office.heartbeat().heartbeat
    envelope = envelope_from_proto(good.envelope)

    for spoilt in (good.index.replace(b" 1 2 ", b" 1 3 "), good.index[:-1], None):
        with pytest.raises(Equivocation):
            enforcing.updater.apply_heartbeat(envelope, spoilt, None)

    assert enforcing.updater.evidence_count == 0
    enforcing.updater.apply_heartbeat(envelope, good.index, None)


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_first_heartbeat_proves_what_time_it_is(new_host: HostSimulator) -> None:
    new_host.connect()

    proof = new_host.snapshots.current.proof
    assert proof is not None
    assert proof.least(new_host.moment()) == int(new_host.clock.now())
    again = new_host.restart()
    assert again.snapshots.current.proof is not None
    assert again.snapshots.current.proof.least(again.moment()) == int(new_host.clock.now())


def test_a_clock_that_was_set_back_takes_no_heartbeat(enforcing: HostSimulator) -> None:
    enforcing.clock.set_wall(enforcing.clock.now() - DAY)

    refused(enforcing, ClockRollback)
    refused(enforcing, ClockRollback, nonce="ab" * 16)


def jump(host: HostSimulator, seconds: float) -> None:
    host.clock.set_wall(host.clock.now() + seconds)


def test_an_answer_to_a_nonce_that_is_held_back_does_not_set_the_time_back(enforcing: HostSimulator) -> None:
    # The machine stood still for eight hours: its boot clock did not notice, its wall clock is right.
    enforcing.clock.set_wall(enforcing.clock.now() + 8 * HOUR)
    assert enforcing.standing().denial is Reason.CLOCK_UNTRUSTED
    answer = enforcing.office.greeting(enforcing.new_session().hello().hello)
    # Somebody between passes signs of life on and keeps the answer, while the org publishes.
    enforcing.clock.advance(MAX_ANSWER_DELAY_S + 0.1)
    enforcing.office.publish(PERMIT)

    enforcing.hear(*answer)

    assert enforcing.nacks[-1] == "HeartbeatStale"
    assert f"came after {MAX_ANSWER_DELAY_S:.0f} seconds; a new connection asks again" in enforcing.sent[-1].nack.detail
    assert enforcing.standing().denial is Reason.CLOCK_UNTRUSTED
    # A new question is answered by somebody who knows the time.
    assert enforcing.connect().standing().fresh


def test_an_answer_may_take_as_long_as_is_allowed(enforcing: HostSimulator) -> None:
    answer = enforcing.office.greeting(enforcing.new_session().hello().hello)
    enforcing.clock.advance(MAX_ANSWER_DELAY_S)

    enforcing.hear(*answer)

    assert "HeartbeatStale" not in enforcing.nacks


def test_an_answer_ends_the_doubt_after_a_reboot_with_a_clock_that_is_ahead(enforcing: HostSimulator) -> None:
    enforcing.clock.reboot(down_for=60)
    true = int(enforcing.clock.now())
    enforcing.clock.set_wall(true + HOUR)
    again = enforcing.restart()

    again.connect(issued_at=true, expires_at=true + HEARTBEAT_LIFETIME_S)

    assert again.nacks == []
    assert again.standing().fresh
    assert again.standing().age_ms < 1000


def test_a_server_that_was_a_minute_ahead_once_leaves_the_host_a_margin(enforcing: HostSimulator) -> None:
    now = int(enforcing.clock.now())
    enforcing.clock.advance(1)
    take(enforcing, issued_at=now + 61, expires_at=now + 300)
    # The server's clock is set right, and this host's is slewed by a millisecond.
    enforcing.clock.advance(100)
    enforcing.clock.set_wall(enforcing.clock.now() - 0.001)

    enforcing.connect()

    assert enforcing.standing().denial is None


def test_a_jump_is_ended_by_an_answer_to_a_nonce_and_by_nothing_else(enforcing: HostSimulator) -> None:
    jump(enforcing, HOUR)
    assert enforcing.standing().denial is Reason.CLOCK_UNTRUSTED
    refused(enforcing, ClockJump)

    take(enforcing, nonce="ab" * 16)

    assert enforcing.standing().denial is None
    assert enforcing.standing().fresh


def test_a_clock_that_an_answer_shows_to_be_ahead_is_not_believed(enforcing: HostSimulator) -> None:
    true = int(enforcing.clock.now())
    jump(enforcing, 60 * DAY)

    take(enforcing, nonce="ab" * 16, issued_at=true + 1, expires_at=true + 300)

    standing = enforcing.standing()
    assert (standing.denial, standing.fresh) == (None, True)
    # It is known to be wrong by so much, after a restart as well.
    assert enforcing.restart().standing().denial is None
    enforcing.clock.advance(300)
    assert not enforcing.standing().fresh


def test_while_the_clock_jumps_bundles_and_roots_are_taken_in(enforcing: HostSimulator) -> None:
    jump(enforcing, HOUR)

    enforcing.take(enforcing.office.publish(PERMIT))
    enforcing.updater.apply_root(enforcing.office.rotate())

    assert enforcing.versions == {"global": 2, "org/acme": 1}
    assert enforcing.updater.root_version == 2
    assert enforcing.standing().denial is Reason.CLOCK_UNTRUSTED


def test_a_heartbeat_that_was_held_back_is_no_younger_for_it(enforcing: HostSimulator) -> None:
    enforcing.office.seq += 1
    held_back = enforcing.office.heartbeat().heartbeat
    enforcing.clock.advance(HEARTBEAT_LIFETIME_S - 1)

    enforcing.updater.apply_heartbeat(envelope_from_proto(held_back.envelope), held_back.index, None)
    assert enforcing.standing().age_ms == (HEARTBEAT_LIFETIME_S - 1) * 1000

    enforcing.clock.advance(1)
    standing = enforcing.standing()
    assert (standing.fresh, type(standing.error)) == (False, HeartbeatStale)
    assert standing.source is PolicySource.CACHE


def test_a_bundle_of_a_scope_that_no_index_names_is_not_fresh(host: HostSimulator) -> None:
    host.update(PERMIT)
    slipped_in = Held(*host.org.bundle_envelope("org/acme", PERMIT))
    host.clock.advance(100)
    host.take(slipped_in)
    host.beat()

    host.clock.advance(HEARTBEAT_LIFETIME_S - 100)
    standing = host.standing()

    assert (standing.fresh, standing.stalest) == (False, "org/acme")


def test_a_restart_vouches_for_nothing_that_no_heartbeat_named(new_host: HostSimulator) -> None:
    host = new_host
    host.office.publish(PERMIT)
    hello = host.new_session().hello().hello
    host.hear(*[message for message in host.office.greeting(hello) if not message.HasField("heartbeat")])
    host.take(Held(*host.org.bundle_envelope("org/acme", PERMIT)))
    take(host)

    again = host.restart()

    for freshness in (host.snapshots.current.freshness, again.snapshots.current.freshness):
        assert ("global" in freshness.by_scope, "org/acme" in freshness.by_scope) == (True, False)
