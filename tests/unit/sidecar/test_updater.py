"""Documents with real signatures: what takes effect, and what leaves everything as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.decision import Reason
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import AkpolicyError, CacheCorrupt, CacheWriteFailed, StreamProtocolError
from akpolicy_sidecar.cache import StateDirectory
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Snapshot, SnapshotHolder
from akpolicy_sidecar.status import LinkHolder, Moment, stand
from akpolicy_sidecar.updater import Outcome, Updater
from tests.simulators.clock import ManualClock
from tests.simulators.org import DAY, OrgSimulator, delegation, role
from tests.simulators.tampering import flip_bit, with_payload, with_signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.bundle import ContentReference
    from akpolicy.envelope import SignedEnvelope

SCHEMA = load_default_schema()
LOCAL = OfflineRule(OfflineMode.CACHED_INDEFINITE, float(DAY))
PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


@dataclass
class Host:
    """One sidecar without its network."""

    org: OrgSimulator
    clock: ManualClock
    place: Path
    directory: StateDirectory
    snapshots: SnapshotHolder
    updater: Updater

    @classmethod
    def start(cls, org: OrgSimulator, clock: ManualClock, place: Path) -> Host:
        directory = StateDirectory.open(place, org.org)
        snapshots = SnapshotHolder(Snapshot.build((), local=LOCAL))
        updater = Updater(
            org=org.org,
            anchors=org.anchors,
            directory=directory,
            schema=SCHEMA,
            clock=clock,
            snapshots=snapshots,
            local=LOCAL,
        )
        return cls(org, clock, place, directory, snapshots, updater)

    def restart(self) -> tuple[Host, list[tuple[str, str]]]:
        """Stop and start again; also return what could not be loaded, by subject and code."""
        self.directory.close()
        again = Host.start(self.org, self.clock, self.place)
        return again, [(p.subject, p.error.code) for p in again.updater.load_from_cache()]

    def apply(self, policies: dict[str, str] | None = None, *, scope: str = "global", **overrides: Any) -> Outcome:
        envelope, blob = self.org.bundle_envelope(scope, policies, **overrides)
        return self.take(envelope, blob)

    def take(self, envelope: SignedEnvelope, blob: bytes) -> Outcome:
        return self.updater.apply_bundle(envelope, lambda _: blob).outcome

    def versions(self) -> dict[str, int]:
        return {bundle.scope: bundle.version for bundle in self.snapshots.current.bundles}

    def facts(self) -> tuple[object, ...]:
        return self.snapshots.current, self.directory.state, self.updater.holdings

    def denial(self) -> Reason | None:
        links = LinkHolder(self.updater.kept_link())
        return stand(self.snapshots.current, links.current, Moment.read(self.clock)).denial


@pytest.fixture
def host(tmp_path: Path) -> Host:
    clock = ManualClock()
    started = Host.start(OrgSimulator(clock=clock), clock, tmp_path / "state")
    started.updater.load_from_cache()
    started.updater.apply_root(started.org.root_envelope())
    return started


def unused(_: ContentReference) -> bytes:
    pytest.fail("the content was asked for")


# --- what takes effect ------------------------------------------------------------------------------------------------


def test_a_bundle_takes_effect_and_survives_a_restart(host: Host) -> None:
    assert host.apply(PERMIT) is Outcome.APPLIED
    assert host.apply(FORBID, scope="org/acme") is Outcome.APPLIED
    host.updater.keep_contact(Moment.read(host.clock))

    again, problems = host.restart()

    assert problems == []
    assert again.versions() == host.versions() == {"global": 1, "org/acme": 1}
    assert again.updater.holdings == host.updater.holdings
    assert again.denial() is None


def test_layers_come_broad_to_specific(host: Host) -> None:
    host.apply(PERMIT, scope="org/acme")
    host.apply(PERMIT)

    assert [layer.scope for layer in host.snapshots.current.layers] == ["global", "org/acme"]


def test_the_same_bundle_again_is_a_quiet_no_op(host: Host) -> None:
    envelope, blob = host.org.bundle_envelope()
    host.take(envelope, blob)
    before = host.facts()

    assert host.updater.apply_bundle(envelope, unused).outcome is Outcome.UNCHANGED
    assert host.facts() == before


def test_a_deletion_removes_the_layer_and_is_remembered(host: Host) -> None:
    host.apply(PERMIT)
    host.apply(PERMIT, scope="org/acme")
    assert host.updater.apply_bundle(host.org.deletion_envelope("org/acme"), unused).outcome is Outcome.APPLIED

    again, problems = host.restart()

    assert problems == []
    assert again.versions() == {"global": 1}
    assert [(b.scope, b.version) for b in again.updater.holdings.enforced] == [("global", 1), ("org/acme", 2)]


def test_a_deleted_scope_is_not_resurrected_by_an_old_bundle(host: Host) -> None:
    old = host.org.bundle_envelope("org/acme", PERMIT)
    host.take(*old)
    host.updater.apply_bundle(host.org.deletion_envelope("org/acme"), unused)

    with pytest.raises(AkpolicyError) as refusal:
        host.take(*old)

    assert refusal.value.code == "RollbackDetected"


def test_the_layer_expires_with_the_root_if_that_is_earlier(host: Host, tmp_path: Path) -> None:
    org = OrgSimulator(clock=host.clock)
    soon = int(host.clock.now()) + DAY
    other = Host.start(org, host.clock, tmp_path / "other")
    other.updater.load_from_cache()
    other.updater.apply_root(org.root_envelope(expires_at=soon))

    other.apply(PERMIT)

    assert other.snapshots.current.expires_at == soon


# --- what is refused --------------------------------------------------------------------------------------------------


def _flipped_payload(host: Host) -> tuple[SignedEnvelope, bytes]:
    envelope, blob = host.org.bundle_envelope("global", PERMIT)
    return with_payload(envelope, flip_bit(envelope.payload, 100)), blob


def _flipped_signature(host: Host) -> tuple[SignedEnvelope, bytes]:
    envelope, blob = host.org.bundle_envelope("global", PERMIT)
    return with_signature(envelope, lambda s: flip_bit(s, 7)), blob


def _other_content(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("global", PERMIT)[0], host.org.bundle_envelope("global", FORBID, version=9)[1]


def _wrong_key(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("global", PERMIT, signed_by=[host.org.bundle_signer])


def _team(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("org/acme/team/t", PERMIT)


def _foreign(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("org/other", PERMIT)


def _older(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("global", PERMIT, version=1)


def _same_version(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("global", PERMIT, version=2)


def _expired(host: Host) -> tuple[SignedEnvelope, bytes]:
    now = int(host.clock.now())
    return host.org.bundle_envelope("global", PERMIT, issued_at=now - DAY, not_before=now - DAY, expires_at=now)


def _unparsable(host: Host) -> tuple[SignedEnvelope, bytes]:
    return host.org.bundle_envelope("global", {"p": '@id("p") permit (principal, action, resource) wenn { 1 };'})


def _unfit(host: Host) -> tuple[SignedEnvelope, bytes]:
    text = '@id("p") permit (principal, action, resource) when { principal.shoe_size == 42 };'
    return host.org.bundle_envelope("global", {"p": text})


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (_flipped_payload, "SignatureInvalid"),
        (_flipped_signature, "SignatureInvalid"),
        (_other_content, "ContentDigestMismatch"),
        (_wrong_key, "KeyNotAuthorised"),
        (_team, "ScopeMismatch"),
        (_foreign, "ScopeMismatch"),
        (_older, "RollbackDetected"),
        (_same_version, "Equivocation"),
        (_expired, "BundleExpired"),
        (_unparsable, "PolicyParseError"),
        (_unfit, "PolicyValidationError"),
    ],
)
def test_a_refused_bundle_leaves_everything_as_it_was(
    host: Host, make: Callable[[Host], tuple[SignedEnvelope, bytes]], code: str
) -> None:
    host.apply(PERMIT)
    host.apply(FORBID)  # version 2
    before = host.facts()
    envelope, blob = make(host)

    with pytest.raises(AkpolicyError) as refusal:
        host.take(envelope, blob)

    assert refusal.value.code == code
    assert host.facts() == before
    again, problems = host.restart()
    assert problems == []
    assert again.versions() == {"global": 2}


def test_after_a_refusal_the_next_good_bundle_takes_effect(host: Host) -> None:
    host.apply(PERMIT)
    with pytest.raises(AkpolicyError):
        host.take(*_unparsable(host))

    assert host.apply(FORBID) is Outcome.APPLIED
    assert host.versions() == {"global": 3}


def test_a_prefix_without_grants_publishes_forbids_only(tmp_path: Path) -> None:
    clock = ManualClock()
    org = OrgSimulator(clock=clock)
    host = Host.start(org, clock, tmp_path / "state")
    host.updater.load_from_cache()
    roles = {
        "root": role(org.root_signer),
        "bundle": [delegation("global", org.platform_signer, grants=False)],
    }
    host.updater.apply_root(org.root_envelope(roles=roles))

    assert host.apply(FORBID) is Outcome.APPLIED
    with pytest.raises(AkpolicyError) as refusal:
        host.apply({**FORBID, **PERMIT})

    assert refusal.value.code == "KeyNotAuthorised"
    assert "`p`" in refusal.value.message


def test_what_the_content_source_raises_comes_through_and_changes_nothing(host: Host) -> None:
    host.apply(PERMIT)
    before = host.facts()

    def broken(_: ContentReference) -> bytes:
        msg = "the stream ended"
        raise StreamProtocolError(msg)

    with pytest.raises(StreamProtocolError):
        host.updater.apply_bundle(host.org.bundle_envelope("global", FORBID)[0], broken)

    assert host.facts() == before


def test_content_of_a_refused_manifest_is_not_asked_for(host: Host) -> None:
    with pytest.raises(AkpolicyError):
        host.updater.apply_bundle(_flipped_payload(host)[0], unused)


def test_a_bundle_that_cannot_be_written_is_not_enforced(host: Host) -> None:
    host.apply(PERMIT)
    before = host.facts()
    envelope, blob = host.org.bundle_envelope("global", FORBID)
    (host.place / "blobs").rename(host.place / "gone")

    with pytest.raises(CacheWriteFailed):
        host.take(envelope, blob)

    assert host.facts() == before
    (host.place / "gone").rename(host.place / "blobs")
    assert host.take(envelope, blob) is Outcome.APPLIED


# --- roots ------------------------------------------------------------------------------------------------------------


def test_the_same_root_again_changes_nothing(host: Host, tmp_path: Path) -> None:
    org = OrgSimulator(clock=host.clock)
    other = Host.start(org, host.clock, tmp_path / "other")
    root = org.root_envelope()

    assert other.updater.apply_root(root) is Outcome.APPLIED
    assert other.updater.apply_root(root) is Outcome.UNCHANGED


def test_a_root_by_foreign_anchors_is_refused(tmp_path: Path) -> None:
    clock = ManualClock()
    host = Host.start(OrgSimulator(clock=clock), clock, tmp_path / "state")

    with pytest.raises(AkpolicyError) as refusal:
        host.updater.apply_root(OrgSimulator(clock=clock).root_envelope())

    assert refusal.value.code == "RootUnanchored"
    assert host.updater.holdings.root_version == 0


def test_another_root_does_not_replace_one_that_cannot_be_loaded(host: Host) -> None:
    next((host.place / "roots").iterdir()).write_bytes(b"damaged")
    again, problems = host.restart()
    assert problems == [("root", "CacheCorrupt")]
    assert again.updater.holdings.root_version == 0

    host.clock.advance(1)
    with pytest.raises(AkpolicyError) as refusal:
        again.updater.apply_root(host.org.root_envelope())

    assert refusal.value.code == "Equivocation"


# --- what the cache holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["envelopes", "blobs"])
def test_a_layer_that_cannot_be_loaded_denies_and_is_asked_for_again(host: Host, kind: str) -> None:
    envelope, blob = host.org.bundle_envelope("global", PERMIT)
    host.take(envelope, blob)
    host.apply(FORBID, scope="org/acme")
    host.updater.keep_contact(Moment.read(host.clock))
    scope = host.directory.state.scopes["global"]
    (host.place / kind / str(scope.blob if kind == "blobs" else scope.envelope)).write_bytes(b"damaged")

    again, problems = host.restart()

    assert problems == [("global", "CacheCorrupt")]
    assert again.denial() is Reason.NO_POLICY
    assert [bundle.scope for bundle in again.updater.holdings.enforced] == ["org/acme"]
    # The mark is kept: nothing older is believed, the same document is.
    with pytest.raises(AkpolicyError) as refusal:
        again.apply(FORBID, version=1)
    assert refusal.value.code == "Equivocation"
    assert again.take(envelope, blob) is Outcome.APPLIED
    assert again.denial() is None


def test_content_that_is_sound_is_claimed_although_its_envelope_is_damaged(host: Host) -> None:
    host.apply(PERMIT)
    scope = host.directory.state.scopes["global"]
    (host.place / "envelopes" / scope.envelope).write_bytes(b"damaged")

    again, _ = host.restart()

    assert again.updater.holdings.blobs == (scope.blob,)


def test_a_damaged_state_starts_without_policy(host: Host) -> None:
    host.apply(PERMIT)
    (host.place / "state.json").write_bytes(b"{}")

    again, problems = host.restart()

    assert problems == [("state", CacheCorrupt.__name__)]
    assert again.denial() is Reason.NO_POLICY
    assert again.updater.holdings.enforced == ()


def test_swapped_envelopes_of_two_scopes_are_noticed(host: Host) -> None:
    host.apply(PERMIT)
    host.apply(PERMIT, scope="org/acme")
    scopes = host.directory.state.scopes
    swapped = {"global": scopes["org/acme"], "org/acme": scopes["global"]}
    host.directory.commit(host.directory.state.model_copy(update={"scopes": swapped}))

    again, problems = host.restart()

    assert [subject for subject, _ in problems] == ["global", "org/acme"]
    assert again.versions() == {}


def test_a_bundle_that_expired_while_the_host_was_off_stays_and_denies(host: Host) -> None:
    host.apply(PERMIT)
    host.updater.keep_contact(Moment.read(host.clock))
    host.clock.reboot(down_for=31 * DAY)

    again, problems = host.restart()

    assert problems == []
    assert again.versions() == {"global": 1}
    assert again.denial() is Reason.BUNDLE_EXPIRED


def test_touching_files_and_restarting_does_not_make_policy_young(host: Host) -> None:
    host.apply(PERMIT, offline={"mode": "cached_with_expiry", "max_age_s": DAY})
    host.updater.keep_contact(Moment.read(host.clock))
    host.clock.advance(DAY + 1)
    for path in host.place.rglob("*"):
        path.touch()

    again, _ = host.restart()

    assert again.denial() is Reason.POLICY_STALE


def test_the_last_contact_survives_a_reboot(host: Host) -> None:
    host.apply(PERMIT)
    host.updater.keep_contact(Moment.read(host.clock))
    host.clock.reboot(down_for=300)

    again, _ = host.restart()

    heard = again.updater.kept_link().heard
    assert heard is not None
    assert Moment.read(host.clock).since(heard) == pytest.approx(300, abs=0.01)
