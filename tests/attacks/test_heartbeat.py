"""Attacks on freshness: heartbeats that are replayed, held back, old or contradictory (A-87 to A-97)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import (
    Equivocation,
    HeartbeatNonceMismatch,
    HeartbeatReplay,
    HeartbeatRollback,
    HeartbeatStale,
)
from tests.attacks.stage import FORBID, ORG, REGISTER, Attack, Stage, root_of
from tests.simulators.office import keep_alive
from tests.simulators.org import DAY, HEARTBEAT_LIFETIME_S

if TYPE_CHECKING:
    from pathlib import Path

LATER = HEARTBEAT_LIFETIME_S / 3


@REGISTER.single(87, "a heartbeat again is a replay", HeartbeatReplay)
def test_a_heartbeat_counts_once(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(LATER)
    beat = stage.office.heartbeat()
    stage.host.hear(beat)
    until = stage.host.snapshots.current.freshness.fresh_until
    stage.host.clock.advance(LATER)
    stage.refuses(attack, [beat])
    assert stage.host.snapshots.current.freshness.fresh_until == until


@REGISTER.single(88, "a heartbeat that comes after its expiry is refused", HeartbeatStale)
def test_a_late_heartbeat_is_refused(stage: Stage, attack: Attack) -> None:
    stage.office.seq += 1
    beat = stage.office.heartbeat()
    stage.host.clock.advance(HEARTBEAT_LIFETIME_S)
    stage.refuses(attack, [beat])


def assert_goes_stale(stage: Stage, wait: float = 0.0) -> None:
    """Assert that policy is no longer fresh, that this is counted and told, and that decisions go on by the cache."""
    stage.host.clock.advance(wait)
    standing = stage.host.standing()
    assert (standing.fresh, standing.source) == (False, PolicySource.CACHE)
    assert type(standing.error) is HeartbeatStale
    assert stage.host.nacks[-1] == "HeartbeatStale"
    assert stage.host.counted("HeartbeatStale") >= 1
    stage.assert_decides()


@REGISTER.single(89, "a stream that goes on without heartbeats freezes nobody", HeartbeatStale)
def test_a_silent_freeze_is_noticed_in_the_second_of_the_expiry(stage: Stage, attack: Attack) -> None:
    for _ in range(HEARTBEAT_LIFETIME_S - 1):
        stage.host.clock.advance(1)
        stage.host.hear(keep_alive())
    assert stage.host.standing().source is PolicySource.LIVE
    stage.host.clock.advance(1)
    stage.host.hear(keep_alive())
    assert_goes_stale(stage)


@REGISTER.single(90, "a bundle that is dropped while heartbeats pass ages the host", HeartbeatStale)
def test_dropping_a_bundle_does_not_go_unnoticed(stage: Stage, attack: Attack) -> None:
    before = stage.facts()
    stage.office.publish(FORBID, scope=ORG)
    for _ in range(3):
        stage.host.clock.advance(LATER)
        stage.host.beat()
    assert stage.facts() == before
    assert_goes_stale(stage)
    assert stage.host.standing().stalest == ORG
    # The mode decides for how long: a day here.
    for _ in range(24 * 12):
        stage.host.clock.advance(300)
        stage.host.beat()
    assert stage.host.standing().denial is Reason.POLICY_STALE


@REGISTER.single(91, "nothing is answered before the first index is enforced whole", HeartbeatStale)
def test_a_host_that_gets_only_some_scopes_denies(tmp_path: Path, attack: Attack) -> None:
    stage = Stage(tmp_path / "state")
    stage.office.publish({"permit-all": "permit (principal, action, resource);"})
    stage.office.publish(FORBID, scope=ORG)
    hello = stage.host.new_session().hello().hello
    root, *bundle, beat, _ = (m for m in stage.office.greeting(hello) if not of_scope(m, ORG))
    stage.host.hear(root, *bundle)
    assert stage.host.versions == {"global": 1}
    stage.host.hear(beat)
    standing = stage.host.standing()
    assert (standing.denial, type(standing.error)) == (Reason.NO_POLICY, HeartbeatStale)
    assert stage.host.nacks == ["HeartbeatStale"]
    assert stage.host.counted("HeartbeatStale") == 1
    assert stage.host.decide() is None
    stage.host.hear(*stage.office.bundle(ORG))
    assert stage.host.standing().error is None


def of_scope(message: object, scope: str) -> bool:
    """Whether a message is a bundle of this scope or one of its chunks (the last ones of a greeting)."""
    kind = message.WhichOneof("message")  # type: ignore[attr-defined]
    if kind == "bundle":
        return bool(message.bundle.revision.scope == scope)  # type: ignore[attr-defined]
    return kind == "chunk" and b"forbid-ssh" in message.chunk.data  # type: ignore[attr-defined]


NONCES = REGISTER.table(
    (92, "a first heartbeat without a nonce is refused", HeartbeatNonceMismatch, lambda: None),
    (92, "a first heartbeat with another nonce is refused", HeartbeatNonceMismatch, lambda: "ab" * 16),
)


@pytest.mark.parametrize("attack", NONCES, ids=str)
def test_the_first_heartbeat_answers_the_nonce(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(LATER)
    stage.host.new_session().hello()
    nonce = attack.act()
    beat = stage.office.heartbeat(nonce=nonce) if nonce else stage.office.heartbeat()
    stage.refuses(attack, [beat])
    assert stage.host.standing().source is PolicySource.CACHE


@REGISTER.single(92, "a later heartbeat with a nonce is refused", HeartbeatNonceMismatch)
def test_another_hosts_heartbeat_is_refused(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(LATER)
    stage.refuses(attack, [stage.office.heartbeat(nonce="cd" * 16)])


@REGISTER.single(93, "a heartbeat with an older seq is refused", HeartbeatRollback)
def test_an_older_generation_is_refused(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(LATER)
    stage.refuses(attack, [stage.office.heartbeat(seq=stage.office.seq - 1)])


@REGISTER.single(93, "an older seq is refused even if it answers the nonce", HeartbeatRollback)
def test_a_server_from_an_old_backup_is_noticed(stage: Stage, attack: Attack) -> None:
    nonce = stage.host.new_session().hello().hello.nonce.hex()
    stage.refuses(attack, [stage.office.heartbeat(seq=stage.office.seq - 1, nonce=nonce)])


@REGISTER.single(94, "a heartbeat that names an older root is refused", HeartbeatRollback)
def test_an_older_root_is_refused(stage: Stage, attack: Attack) -> None:
    first = stage.office.root
    root = stage.office.add_root(stage.org.root_envelope(version=2))
    stage.host.hear(*root_of(root)).beat()
    stage.office.seq += 1
    stage.refuses(attack, [stage.office.heartbeat(about_root=first)])


INDEXES = REGISTER.table(
    (
        95,
        "another index than the named one is refused",
        Equivocation,
        lambda m: m.replace(b"global", b"Global"),
    ),
    (95, "a shorter index than the one that is named is refused", Equivocation, lambda m: m[: m.index(b"\n") + 1]),
    (95, "no index where a new one is named is refused", Equivocation, lambda _: b""),
)


@pytest.mark.parametrize("attack", INDEXES, ids=str)
def test_the_index_is_what_the_heartbeat_names(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(1)
    stage.office.publish(FORBID, scope=ORG)
    beat = stage.office.heartbeat()
    beat.heartbeat.index = attack.act(beat.heartbeat.index)
    stage.refuses(attack, [beat])


@REGISTER.single(95, "two indexes with one seq are refused, and kept as evidence", Equivocation)
def test_one_generation_has_one_index(stage: Stage, attack: Attack) -> None:
    stage.host.clock.advance(1)
    seq = stage.office.seq
    stage.office.publish(FORBID, scope=ORG)
    stage.refuses(attack, [stage.office.heartbeat(seq=seq)])
    assert stage.host.updater.evidence_count >= 1


@REGISTER.single(96, "another root of the version is refused", Equivocation)
def test_one_version_has_one_root(stage: Stage, attack: Attack) -> None:
    stage.office.seq += 1
    other = stage.org.root_envelope(expires_at=int(stage.host.clock.now()) + DAY)
    stage.refuses(attack, [stage.office.heartbeat(about_root=other)])


@REGISTER.single(97, "one scope that is withheld leaves the others fresh", None)
def test_scopes_age_one_by_one(stage: Stage, attack: Attack) -> None:
    begun = int(stage.host.clock.now())
    stage.office.publish(FORBID, scope=ORG)
    for _ in range(4):
        stage.host.clock.advance(LATER)
        stage.host.beat()
    now = int(stage.host.clock.now())
    confirmed = {scope: seen.issued_at for scope, seen in stage.host.snapshots.current.freshness.by_scope.items()}
    assert confirmed == {"global": now, ORG: begun}
    assert stage.host.standing().age_ms == (now - begun) * 1000
    assert stage.host.nacks == ["HeartbeatStale"]
    stage.host.hear(*stage.office.bundle(ORG))
    assert stage.host.standing().age_ms == 0
    assert stage.host.standing().source is PolicySource.LIVE


def test_a_stolen_heartbeat_key_that_ran_ahead_is_recovered_from_by_an_epoch(stage: Stage) -> None:
    stage.host.clock.advance(1)
    stage.host.beat(seq=2**20)
    stage.host.clock.advance(1)
    root = stage.office.add_root(stage.org.root_envelope(version=2, epoch=2))
    stage.host.hear(*root_of(root))
    stage.office.publish(FORBID, scope=ORG, epoch=2, version=1, min_version=1)
    stage.office.publish({"permit-all": "permit (principal, action, resource);"}, epoch=2, version=1, min_version=1)
    stage.host.hear(*stage.office.bundle("global"), *stage.office.bundle(ORG)).beat()
    assert stage.host.nacks == []
    assert stage.host.standing().source is PolicySource.LIVE


def test_freshness_survives_a_restart_and_grows_no_younger(stage: Stage) -> None:
    stage.host.clock.advance(LATER)
    age = stage.host.standing().age_ms
    again = stage.host.restart()
    assert (again.standing().age_ms, again.standing().fresh) == (age, True)
