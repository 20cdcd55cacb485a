"""What a start finds on disk: judged like anything from the network, and never more than was accepted last."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import AkpolicyError, StateDirUnusable
from akpolicy.signing import PrivateKeySigner
from akpolicy.wire import envelope_to_bytes
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED
from akpolicy_sidecar.state import encode_state
from akpolicy_sidecar.updates import Outcome
from tests.simulators.org import DAY, HEARTBEAT_LIFETIME_S, OrgSimulator, role
from tests.simulators.tampering import flip_bit, with_more_signatures, with_signature

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.host import HostSimulator
from tests.unit.sidecar.state_files import PERMIT, edit, kept, write


def test_a_new_host_has_nothing_and_no_trouble(new_host: HostSimulator) -> None:
    assert new_host.not_loaded == []
    assert new_host.standing().denial is Reason.NO_POLICY
    assert new_host.updater.holdings.enforced == ()
    # From now on documents without a state are a loss.
    assert (new_host.place / "state.json").exists()


def test_everything_that_was_in_force_is_in_force_again(enforcing: HostSimulator) -> None:
    again = enforcing.restart()

    assert again.not_loaded == []
    assert (again.versions, again.digests) == (enforcing.versions, enforcing.digests)
    assert again.snapshots.current.freshness == enforcing.snapshots.current.freshness
    assert again.directory.state == enforcing.directory.state
    assert again.standing().denial is None
    assert again.updater.holdings.blobs == enforcing.updater.holdings.blobs


def test_the_marks_are_in_force_again(enforcing: HostSimulator) -> None:
    again = enforcing.restart()

    for version, code in ((1, "RollbackDetected"), (2, "Equivocation")):
        with pytest.raises(AkpolicyError) as refusal:
            again.take(again.office.publish(PERMIT, version=version))
        assert refusal.value.code == code


# --- files that are not what they were --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [("envelopes", "EnvelopeMalformed"), ("blobs", "CacheCorrupt")])
def test_a_layer_that_cannot_be_loaded_denies_and_is_asked_for_again(
    enforcing: HostSimulator, kind: str, code: str
) -> None:
    held, scope = enforcing.office.current["global"], kept(enforcing)
    (enforcing.place / kind / str(scope.blob if kind == "blobs" else scope.envelope)).write_bytes(b"damaged")

    again = enforcing.restart()

    assert again.not_loaded == [("global", code)]
    assert again.counted(code) == 1
    assert again.standing().denial is Reason.NO_POLICY
    assert [bundle.scope for bundle in again.updater.holdings.enforced] == ["org/acme"]
    # The mark is kept: nothing older is believed, the same document is.
    with pytest.raises(AkpolicyError) as refusal:
        again.take(again.office.publish(PERMIT, version=2))
    assert refusal.value.code == "Equivocation"
    assert again.take(held) is Outcome.APPLIED
    assert again.standing().denial is None
    assert again.restart().not_loaded == []


def test_content_that_is_sound_is_claimed_although_its_envelope_is_damaged(enforcing: HostSimulator) -> None:
    scope = kept(enforcing)
    (enforcing.place / "envelopes" / scope.envelope).write_bytes(b"damaged")

    assert scope.blob in enforcing.restart().updater.holdings.blobs


def test_content_that_is_damaged_or_gone_is_not_claimed(enforcing: HostSimulator) -> None:
    blobs = enforcing.place / "blobs"
    (blobs / str(kept(enforcing).blob)).write_bytes(b"x")
    (blobs / str(kept(enforcing, "org/acme").blob)).unlink()

    again = enforcing.restart()

    assert again.not_loaded == [("global", "CacheCorrupt"), ("org/acme", "CacheMissing")]
    assert again.updater.holdings.blobs == ()


@pytest.mark.parametrize("spoil", ["second name", "mode", "link", "directory"])
def test_content_that_must_not_be_read_is_trouble_for_its_scope_and_not_for_the_start(
    enforcing: HostSimulator, tmp_path: Path, spoil: str
) -> None:
    path = enforcing.place / "blobs" / str(kept(enforcing).blob)
    if spoil == "second name":
        (tmp_path / "other").hardlink_to(path)
    elif spoil == "mode":
        path.chmod(0o644)
    else:
        path.rename(tmp_path / "other")
        path.symlink_to(tmp_path / "other") if spoil == "link" else path.mkdir(mode=0o700)

    again = enforcing.restart()

    code = {"second name": "CacheHardlink", "mode": "CacheWritableByOthers", "link": "CacheSymlink"}
    assert again.not_loaded == [("global", code.get(spoil, "CacheNotRegular"))]
    assert again.versions == {"org/acme": 1}
    assert again.standing().denial is Reason.NO_POLICY


def test_a_genuine_older_document_in_its_place_is_told_apart(enforcing: HostSimulator) -> None:
    older, _ = enforcing.org.bundle_envelope("global", PERMIT, version=1)
    write(enforcing.place / "envelopes" / kept(enforcing).envelope, envelope_to_bytes(older))

    assert enforcing.restart().not_loaded == [("global", "CacheRolledBack")]


def test_a_document_that_is_not_genuine_is_told_apart(enforcing: HostSimulator) -> None:
    spoilt = with_signature(enforcing.office.current["global"].envelope, lambda s: flip_bit(s, 3))
    write(enforcing.place / "envelopes" / kept(enforcing).envelope, envelope_to_bytes(spoilt))

    assert enforcing.restart().not_loaded == [("global", "SignatureInvalid")]


def test_damage_that_no_signature_covers_is_noticed(enforcing: HostSimulator) -> None:
    envelope = enforcing.office.current["global"].envelope
    more = with_more_signatures(envelope, *OrgSimulator().bundle_envelope()[0].signatures)
    write(enforcing.place / "envelopes" / kept(enforcing).envelope, envelope_to_bytes(more))

    assert enforcing.restart().not_loaded == [("global", "CacheCorrupt")]


def test_swapped_documents_of_two_scopes_are_noticed(enforcing: HostSimulator) -> None:
    scopes = enforcing.directory.state.scopes
    edit(enforcing, scopes={"global": scopes["org/acme"], "org/acme": scopes["global"]})

    again = enforcing.restart()

    assert [subject for subject, _ in again.not_loaded] == ["global", "org/acme"]
    assert again.versions == {}
    assert again.standing().denial is Reason.NO_POLICY


def test_a_state_that_names_no_content_for_a_document_that_has_some_is_noticed(enforcing: HostSimulator) -> None:
    scopes = dict(enforcing.directory.state.scopes)
    scopes["global"] = scopes["global"].model_copy(update={"blob": None})
    edit(enforcing, scopes=scopes)

    assert enforcing.restart().not_loaded == [("global", "CacheCorrupt")]


def test_a_state_that_names_content_for_a_deleted_scope_is_noticed(enforcing: HostSimulator) -> None:
    enforcing.take(enforcing.office.delete("org/acme"))
    scopes = dict(enforcing.directory.state.scopes)
    scopes["org/acme"] = scopes["org/acme"].model_copy(update={"blob": scopes["global"].blob})
    edit(enforcing, scopes=scopes)

    assert enforcing.restart().not_loaded == [("org/acme", "CacheCorrupt")]


@pytest.mark.parametrize("spoil", ["original", "no original"])
def test_a_rollback_without_its_original_cannot_be_loaded(enforcing: HostSimulator, spoil: str) -> None:
    earlier = enforcing.office.current["global"]
    enforcing.take(enforcing.office.publish(PERMIT))
    enforcing.take(enforcing.office.roll_back(earlier))
    scope = kept(enforcing)
    assert scope.original == hashlib.sha256(envelope_to_bytes(earlier.envelope)).hexdigest()
    if spoil == "original":
        (enforcing.place / "envelopes" / scope.original).unlink()
    else:
        scopes = {**enforcing.directory.state.scopes, "global": scope.model_copy(update={"original": None})}
        edit(enforcing, scopes=scopes)

    code = "CacheMissing" if spoil == "original" else "RollbackNotAuthorised"
    assert enforcing.restart().not_loaded == [("global", code)]


# --- the state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["damaged", "removed"])
def test_a_lost_state_starts_without_policy_and_is_healed_by_the_server(enforcing: HostSimulator, spoil: str) -> None:
    if spoil == "damaged":
        (enforcing.place / "state.json").write_bytes(b"{}")
    else:
        (enforcing.place / "state.json").unlink()

    again = enforcing.restart()

    assert again.not_loaded == [("state", "CacheCorrupt" if spoil == "damaged" else "CacheStateMissing")]
    assert again.standing().denial is Reason.NO_POLICY
    assert again.updater.holdings.enforced == ()
    assert again.connect().versions == enforcing.versions
    assert again.standing().denial is None
    assert again.restart().not_loaded == []


def test_another_orgs_directory_is_refused_and_left_as_it_is(enforcing: HostSimulator) -> None:
    before = (enforcing.place / "state.json").read_bytes()

    with pytest.raises(StateDirUnusable):
        enforcing.restart(org=OrgSimulator("globex", enforcing.clock))

    assert (enforcing.place / "state.json").read_bytes() == before


def test_an_edited_confirmation_does_not_pass(enforcing: HostSimulator) -> None:
    younger = encode_state(enforcing.directory.state).replace(b'"expires_at":1', b'"expires_at":2')
    assert younger != encode_state(enforcing.directory.state)
    write(enforcing.place / "state.json", younger)

    assert enforcing.restart().not_loaded == [("state", "CacheCorrupt")]


# --- time and freshness -----------------------------------------------------------------------------------------------


def test_a_bundle_that_expired_while_the_host_was_off_stays_and_denies(enforcing: HostSimulator) -> None:
    enforcing.clock.reboot(down_for=31 * DAY)

    again = enforcing.restart()

    assert again.not_loaded == []
    assert again.versions == enforcing.versions
    assert again.standing().denial is Reason.BUNDLE_EXPIRED


def test_touching_files_and_restarting_does_not_make_policy_young(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(DAY + 1)
    for path in enforcing.place.rglob("*"):
        path.touch()

    again = enforcing.restart()

    assert again.standing().denial is Reason.POLICY_STALE
    assert again.standing().age_ms == (DAY + 1) * 1000


def test_the_age_goes_on_through_a_reboot(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(40)
    enforcing.clock.reboot(down_for=300)

    assert enforcing.restart().standing().age_ms == 340_000


def test_a_clock_that_was_set_back_through_a_reboot_is_not_believed(enforcing: HostSimulator) -> None:
    enforcing.clock.reboot(down_for=60)
    enforcing.clock.set_wall(enforcing.clock.now() - DAY)

    again = enforcing.restart()

    assert again.not_loaded == []
    assert again.standing().denial is Reason.CLOCK_UNTRUSTED


def test_a_heartbeat_that_a_revoked_key_signed_is_forgotten_at_the_next_start_at_the_latest(
    enforcing: HostSimulator,
) -> None:
    org, fresh = enforcing.org, PrivateKeySigner.generate()
    roles = {**org.root_document()["roles"], "heartbeat": role(fresh)}
    revoked = {org.heartbeat_signer.public_key.key_id: int(enforcing.clock.now())}
    before = enforcing.directory.state.freshness
    enforcing.updater.apply_root(enforcing.office.rotate(signers=[fresh], roles=roles, revoked=revoked))
    # As if the disk had been full in between.
    edit(enforcing, freshness=before)

    again = enforcing.restart()

    assert again.snapshots.current.freshness == NOTHING_CONFIRMED
    assert again.standing().denial is Reason.NO_POLICY


def test_heartbeats_of_an_earlier_run_vouch_until_they_expire_and_no_longer(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(HEARTBEAT_LIFETIME_S - 1)
    again = enforcing.restart()
    assert again.standing().fresh

    enforcing.clock.advance(1)
    assert not again.standing().fresh


def test_a_disk_that_is_full_at_the_start_is_trouble_and_nothing_else(
    enforcing: HostSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed_by_another = {
        scope: kept.model_copy(update={"engine": "cedarpy 0.0.1"})
        for scope, kept in enforcing.directory.state.scopes.items()
    }
    edit(enforcing, scopes=parsed_by_another)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        again = enforcing.restart()

    assert again.not_loaded == [("state", "CacheWriteFailed")]
    assert again.versions == enforcing.versions
    assert again.standing().denial is None
