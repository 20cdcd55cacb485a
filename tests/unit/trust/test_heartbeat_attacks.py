"""Attacks on heartbeats: out of their time, out of order, about another state, by somebody else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    EnvelopeMalformed,
    Equivocation,
    HeartbeatNonceMismatch,
    HeartbeatReplay,
    HeartbeatRollback,
    HeartbeatStale,
    IssuedInFuture,
    KeyExpired,
    KeyNotAuthorised,
    LifetimeTooLong,
    OrgMismatch,
    PayloadTypeMismatch,
    RootChainGap,
    RootExpired,
    RootMissing,
    SignatureInvalid,
    VersionJump,
)
from akpolicy.limits import CLOCK_SKEW_S, MAX_HEARTBEAT_LIFETIME_S, MAX_VERSION_JUMP
from akpolicy.strict_json import dump
from akpolicy.trust import HeartbeatMark, Judge
from tests.simulators.org import ABSENT, HEARTBEAT_LIFETIME_S, index_of, role, sign
from tests.simulators.tampering import flip_bit, with_signature
from tests.unit.trust.scene import Scene, check_message

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import AkpolicyError
    from akpolicy.trust import VerifiedHeartbeat

NONCE = "ab" * 16


class HeartbeatScene(Scene):
    """A host that hears heartbeats, and has accepted a first one with `seq` 5."""

    def __init__(self) -> None:
        super().__init__()
        self.beat = self.accept_beat(*self.heartbeat(seq=5))

    def heartbeat(self, **fields: Any) -> tuple[SignedEnvelope, bytes]:
        """Return a heartbeat about the state of now, with these fields changed."""
        return self.org.heartbeat_envelope(fields.pop("about", self.root), [self.first], **fields)

    def judge_beat(self, envelope: SignedEnvelope, index: bytes | None, **more: Any) -> VerifiedHeartbeat:
        return self.judge.judge_heartbeat(envelope, index, self.now, **more)

    def accept_beat(self, envelope: SignedEnvelope, index: bytes | None, **more: Any) -> VerifiedHeartbeat:
        verified = self.judge_beat(envelope, index, **more)
        self.judge.accept_heartbeat(verified)
        return verified

    def refuses_beat(
        self, error: type[AkpolicyError], envelope: SignedEnvelope, index: bytes | None, **more: Any
    ) -> None:
        """Assert that a heartbeat is refused with exactly this error, and that what the judge believes is unchanged."""
        before = (self.judge.heartbeat, self.judge.index)
        with pytest.raises(error) as caught:
            self.judge_beat(envelope, index, **more)
        assert type(caught.value) is error
        check_message(caught.value)
        assert (self.judge.heartbeat, self.judge.index) == before


@pytest.fixture
def scene() -> HeartbeatScene:
    return HeartbeatScene()


def test_a_believed_heartbeat_says_what_it_is(scene: HeartbeatScene) -> None:
    scene.clock.advance(1)
    envelope, index = scene.heartbeat(seq=6)
    verified = scene.accept_beat(envelope, index)
    assert verified.document.seq == 6
    assert verified.envelope is envelope
    assert verified.index.text == index
    assert verified.keys == (scene.org.heartbeat_signer.public_key.key_id,)
    assert verified.mark == HeartbeatMark(1, 6, int(scene.now), verified.index.digest)
    assert scene.judge.heartbeat == verified.mark
    assert scene.judge.index == verified.index


# --- who signs -----------------------------------------------------------------------------------------------------


def test_a_heartbeat_of_another_org_is_refused(scene: HeartbeatScene) -> None:
    scene.refuses_beat(OrgMismatch, *scene.heartbeat(org="globex"))


def test_nobody_signs_heartbeats_where_the_root_names_no_key_for_them(scene: HeartbeatScene) -> None:
    roles = {**scene.org.root_document()["roles"], "heartbeat": None}
    scene.with_root(roles=roles)
    scene.refuses_beat(KeyNotAuthorised, *scene.heartbeat())


def test_a_key_of_another_role_signs_no_heartbeat(scene: HeartbeatScene) -> None:
    forged = scene.heartbeat(signed_by=[scene.org.bundle_signer])
    scene.refuses_beat(KeyNotAuthorised, *forged)
    with pytest.raises(KeyNotAuthorised, match="no signing key may sign for heartbeats"):
        scene.judge_beat(*forged)


def test_an_expired_heartbeat_key_is_refused(scene: HeartbeatScene) -> None:
    signer = scene.org.heartbeat_signer
    keys = scene.org.root_document()["keys"]
    keys[signer.public_key.key_id]["valid_until"] = int(scene.now)
    scene.with_root(keys=keys)
    scene.refuses_beat(KeyExpired, *scene.heartbeat())


def test_only_keys_that_count_are_told(scene: HeartbeatScene) -> None:
    old, new = scene.org.heartbeat_signer, scene.org.rollback_signer
    keys = scene.org.root_document()["keys"]
    keys[old.public_key.key_id]["valid_until"] = int(scene.now)
    scene.with_root(keys=keys, roles={**scene.org.root_document()["roles"], "heartbeat": role(old, new)})
    verified = scene.judge_beat(*scene.heartbeat(signed_by=[old, new]))
    assert verified.keys == (new.public_key.key_id,)


def test_a_heartbeat_with_a_bad_signature_is_refused(scene: HeartbeatScene) -> None:
    envelope, index = scene.heartbeat()
    scene.refuses_beat(SignatureInvalid, with_signature(envelope, lambda s: flip_bit(s, 7)), index)


def test_another_kind_of_document_is_no_heartbeat(scene: HeartbeatScene) -> None:
    scene.refuses_beat(PayloadTypeMismatch, scene.first, None)


def test_a_heartbeat_without_a_signature_is_refused(scene: HeartbeatScene) -> None:
    envelope, index = scene.heartbeat(signed_by=[])
    scene.refuses_beat(EnvelopeMalformed, envelope, index)


def test_without_a_root_no_heartbeat_is_believed(scene: HeartbeatScene) -> None:
    beat = scene.heartbeat()
    scene.judge = Judge("acme", scene.org.anchors)
    scene.refuses_beat(RootMissing, *beat)


def test_under_an_expired_root_no_heartbeat_is_believed(scene: HeartbeatScene) -> None:
    scene.with_root(expires_at=int(scene.now) + 10)
    scene.clock.advance(10)
    scene.refuses_beat(RootExpired, *scene.heartbeat())


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_heartbeat_lives_for_an_hour_at_most(scene: HeartbeatScene) -> None:
    now = int(scene.now)
    scene.refuses_beat(LifetimeTooLong, *scene.heartbeat(expires_at=now + MAX_HEARTBEAT_LIFETIME_S + 1))
    scene.judge_beat(*scene.heartbeat(expires_at=now + MAX_HEARTBEAT_LIFETIME_S))


def test_a_heartbeat_from_beyond_the_skew_is_refused(scene: HeartbeatScene) -> None:
    now = int(scene.now)
    scene.refuses_beat(IssuedInFuture, *scene.heartbeat(issued_at=now + CLOCK_SKEW_S + 1))
    scene.judge_beat(*scene.heartbeat(issued_at=now + CLOCK_SKEW_S))


def test_where_now_is_known_to_be_behind_the_latest_time_bounds_the_future(scene: HeartbeatScene) -> None:
    now, latest = int(scene.now), scene.now + 1000
    beat = scene.heartbeat(issued_at=now + 1000 + CLOCK_SKEW_S, expires_at=now + 2000)
    scene.judge_beat(*beat, latest=latest)
    scene.refuses_beat(IssuedInFuture, *beat, latest=latest - 1)
    # What has expired is judged by now all the same.
    scene.judge_beat(*scene.heartbeat(issued_at=now + 1, expires_at=now + 10), latest=latest)


def test_a_heartbeat_ends_in_the_second_of_its_expiry(scene: HeartbeatScene) -> None:
    beat = scene.heartbeat()
    scene.clock.advance(HEARTBEAT_LIFETIME_S - 1)
    scene.judge_beat(*beat)
    scene.clock.advance(1)
    scene.refuses_beat(HeartbeatStale, *beat)


# --- nonce ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("carried", "wanted"),
    [(ABSENT, NONCE), ("cd" * 16, NONCE), (NONCE, None)],
    ids=["none where one is wanted", "another one", "one where none is wanted"],
)
def test_a_heartbeat_carries_exactly_the_nonce_that_is_waited_for(
    scene: HeartbeatScene, carried: object, wanted: str | None
) -> None:
    scene.refuses_beat(HeartbeatNonceMismatch, *scene.heartbeat(nonce=carried), nonce=wanted)


def test_a_heartbeat_with_the_right_nonce_is_believed(scene: HeartbeatScene) -> None:
    assert scene.judge_beat(*scene.heartbeat(nonce=NONCE), nonce=NONCE).document.nonce == NONCE


# --- roots ----------------------------------------------------------------------------------------------------------


def test_a_heartbeat_that_names_an_older_root_is_refused(scene: HeartbeatScene) -> None:
    old = scene.root
    scene.root = scene.trust(scene.judge, version=2)
    scene.refuses_beat(HeartbeatRollback, *scene.heartbeat(about=old))
    scene.judge_beat(*scene.heartbeat())


def test_a_heartbeat_that_names_a_newer_root_waits_for_it(scene: HeartbeatScene) -> None:
    newer = scene.org.root_envelope(version=2)
    scene.refuses_beat(RootChainGap, *scene.heartbeat(about=newer))


def test_a_heartbeat_that_names_another_root_of_the_version_is_refused(scene: HeartbeatScene) -> None:
    other = scene.org.root_envelope(expires_at=int(scene.now) + 1000)
    scene.refuses_beat(Equivocation, *scene.heartbeat(about=other))


# --- order ----------------------------------------------------------------------------------------------------------


def test_an_older_seq_is_refused_even_with_the_nonce(scene: HeartbeatScene) -> None:
    scene.clock.advance(1)
    scene.refuses_beat(HeartbeatRollback, *scene.heartbeat(seq=4))
    scene.refuses_beat(HeartbeatRollback, *scene.heartbeat(seq=4, nonce=NONCE), nonce=NONCE)


def test_seq_does_not_jump_far_ahead(scene: HeartbeatScene) -> None:
    scene.refuses_beat(VersionJump, *scene.heartbeat(seq=5 + MAX_VERSION_JUMP + 1))
    scene.accept_beat(*scene.heartbeat(seq=5 + MAX_VERSION_JUMP))


def test_a_first_heartbeat_may_have_any_seq(scene: HeartbeatScene) -> None:
    scene.with_root()
    scene.accept_beat(*scene.heartbeat(seq=MAX_VERSION_JUMP * 1000))


def test_one_seq_is_one_index(scene: HeartbeatScene) -> None:
    scene.clock.advance(1)
    scene.first, _ = scene.org.bundle_envelope(scene.org.scope)
    scene.refuses_beat(Equivocation, *scene.heartbeat(seq=5))
    scene.refuses_beat(Equivocation, *scene.heartbeat(seq=5, nonce=NONCE), nonce=NONCE)
    scene.accept_beat(*scene.heartbeat(seq=6))


def test_a_renewal_is_later_than_the_last_heartbeat(scene: HeartbeatScene) -> None:
    scene.refuses_beat(HeartbeatReplay, scene.beat.envelope, None)
    scene.refuses_beat(HeartbeatReplay, *scene.heartbeat(seq=5, issued_at=int(scene.now) - 1))
    scene.accept_beat(*scene.heartbeat(seq=5, issued_at=int(scene.now) + 1))


def test_a_higher_seq_may_come_from_a_server_whose_clock_is_behind(scene: HeartbeatScene) -> None:
    earlier = int(scene.now) - 5
    scene.accept_beat(*scene.heartbeat(seq=6, issued_at=earlier))
    assert scene.judge.heartbeat == replace(scene.beat.mark, seq=6, issued_at=earlier)


def test_an_answer_to_a_nonce_may_be_earlier_and_moves_no_mark_back(scene: HeartbeatScene) -> None:
    scene.accept_beat(*scene.heartbeat(seq=5, issued_at=int(scene.now) - 5, nonce=NONCE), nonce=NONCE)
    assert scene.judge.heartbeat == scene.beat.mark
    later = int(scene.now) + 5
    scene.accept_beat(*scene.heartbeat(seq=5, issued_at=later, nonce=NONCE), nonce=NONCE)
    assert scene.judge.heartbeat == replace(scene.beat.mark, issued_at=later)


def test_of_two_that_were_judged_together_the_older_is_not_accepted_last(scene: HeartbeatScene) -> None:
    older, newer = (scene.judge_beat(*scene.heartbeat(seq=seq)) for seq in (6, 7))
    scene.judge.accept_heartbeat(newer)
    with pytest.raises(HeartbeatRollback) as caught:
        scene.judge.accept_heartbeat(older)
    check_message(caught.value)
    assert scene.judge.heartbeat == newer.mark


def test_a_root_of_a_higher_epoch_lets_seq_begin_anew(scene: HeartbeatScene) -> None:
    scene.root = scene.trust(scene.judge, version=2, epoch=2)
    verified = scene.accept_beat(*scene.heartbeat(seq=1))
    assert scene.judge.heartbeat == verified.mark
    assert (verified.mark.epoch, verified.mark.seq) == (2, 1)
    # From here on it counts again.
    scene.accept_beat(*scene.heartbeat(seq=3))
    scene.refuses_beat(HeartbeatRollback, *scene.heartbeat(seq=2))


def test_a_restarted_host_remembers_the_last_heartbeat(scene: HeartbeatScene) -> None:
    scene.judge = Judge("acme", scene.org.anchors, heartbeat=scene.judge.heartbeat)
    scene.judge.trust_root(scene.root, scene.now)
    assert scene.judge.heartbeat == scene.beat.mark
    scene.refuses_beat(HeartbeatRollback, *scene.heartbeat(seq=4))
    scene.refuses_beat(HeartbeatReplay, *scene.heartbeat(seq=5))


# --- the index --------------------------------------------------------------------------------------------------------


def test_an_index_that_is_known_need_not_come_again(scene: HeartbeatScene) -> None:
    scene.clock.advance(1)
    envelope, index = scene.heartbeat(seq=5)
    verified = scene.accept_beat(envelope, None)
    assert verified.index.text == index


def test_without_its_index_a_heartbeat_about_a_new_state_is_refused(scene: HeartbeatScene) -> None:
    scene.first, _ = scene.org.bundle_envelope(scene.org.scope)
    scene.refuses_beat(Equivocation, scene.heartbeat(seq=6)[0], None)


def test_an_index_is_exactly_the_one_that_is_named(scene: HeartbeatScene) -> None:
    known = scene.heartbeat(seq=6)[1]
    scene.first, _ = scene.org.bundle_envelope(scene.org.scope)
    envelope, index = scene.heartbeat(seq=6)
    for wrong in (known, b"", index + b"\n", index[:-1], index.replace(b"acme", b"acmf")):
        scene.refuses_beat(Equivocation, envelope, wrong)
    scene.accept_beat(envelope, index)


def test_the_size_of_the_index_counts_as_well_as_its_digest(scene: HeartbeatScene) -> None:
    scene.first, _ = scene.org.bundle_envelope(scene.org.scope)
    index = index_of([scene.first])
    document = scene.org.heartbeat_document(scene.root, index)
    for size in (len(index.text) - 1, len(index.text) + 1):
        wrong = {**document, "index": {"digest": index.digest, "size": size}}
        envelope = sign(PayloadType.HEARTBEAT, dump(wrong), [scene.org.heartbeat_signer])
        scene.refuses_beat(Equivocation, envelope, index.text)
