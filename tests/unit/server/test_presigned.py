"""Bundles that are signed elsewhere: what is handed out, and what comes back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import Manifest, describe_content, encode_content
from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import (
    AkpolicyError,
    BundleExpired,
    ContentDigestMismatch,
    EnvelopeMalformed,
    EpochMismatch,
    ExpiryExceedsKey,
    FieldInvalid,
    IdempotencyKeyReused,
    InvalidField,
    IssuedInFuture,
    KeyNotAuthorised,
    LifetimeTooLong,
    PayloadTypeMismatch,
    PermissionDenied,
    PolicySetInvalid,
    SchemaUnsupported,
    SignatureInvalid,
    ThresholdNotMet,
    UnknownKey,
    VersionConflict,
)
from akpolicy.scope import GLOBAL
from akpolicy.strict_json import dump, load
from akpolicy_server.orders import EnvelopeOrder
from akpolicy_server.store.revisions import RevisionKind
from tests.simulators.org import sign
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import Follower, current_root, new_signers, next_root, with_keys, with_role
from tests.unit.server.test_rollbacks import publish
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from akpolicy.signing import PrivateKeySigner
    from akpolicy_server.publisher import Published
    from tests.unit.server.conftest import Core

ACME = "org/acme"
DAY = 86_400


@pytest.fixture
def owners(core: Core) -> list[PrivateKeySigner]:
    """Let 2 of these 3 keys sign acme's bundles."""
    owners = new_signers(3)
    keys = [owner.public_key for owner in owners]
    roles = with_role(core, "acme", "bundle", ACME, *keys, threshold=2)
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", *keys), roles=roles))
    core.announced.clear()
    return owners


def bring(core: Core, envelope: SignedEnvelope, content: bytes, **fields: Any) -> Published:
    return core.presigned.publish(core.admin, EnvelopeOrder(envelope, content, **fields))


def signed(core: Core, owners: list[PrivateKeySigner], text: str, **changes: Any) -> tuple[SignedEnvelope, bytes]:
    """Prepare a bundle, change its manifest, and have it signed by two owners."""
    prepared = core.presigned.prepare(core.admin, order(ACME, text))
    manifest = load(prepared.envelope.payload, Manifest).model_dump(exclude_defaults=True) | changes
    return sign(PayloadType.BUNDLE, dump(manifest), owners[:2]), prepared.content


def test_what_was_prepared_and_signed_elsewhere_is_enforced(core: Core, owners: list[PrivateKeySigner]) -> None:
    asked = order(ACME, policy("a"), offline_max_age_s=77, lifetime_s=3600, message="not signed")
    prepared = core.presigned.prepare(core.admin, asked)
    assert (prepared.current_version, prepared.envelope.signatures) == (0, ())
    assert prepared.root == view_of(core).root.envelope
    assert view_of(core).revisions == {}
    answer = bring(core, sign(PayloadType.BUNDLE, prepared.envelope.payload, owners[1:]), prepared.content, message="m")
    assert (answer.revision.version, answer.revision.kind, answer.revision.message) == (1, RevisionKind.PUBLISH, "m")
    assert answer.revision.published_by == core.admin.key_id
    assert core.announced == ["acme"]
    host = Follower(core)
    host.follow()
    manifest = host.enforced[ACME].manifest
    assert (manifest.offline.max_age_s, manifest.expires_at - manifest.issued_at) == (77, 3600)


def test_what_is_prepared_is_what_publishing_would_sign(core: Core) -> None:
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("a"), lifetime_s=3600))
    asked = order(ACME, policy("a"), lifetime_s=3600)
    assert core.publisher.publish(core.admin, asked).revision.envelope.payload == prepared.envelope.payload


def test_preparing_is_refused_as_publishing_is(core: Core, owners: list[PrivateKeySigner]) -> None:
    with pytest.raises(PolicySetInvalid):
        core.presigned.prepare(core.admin, order(ACME, "permit ("))
    with pytest.raises(VersionConflict):
        core.presigned.prepare(core.admin, order(ACME, policy("a"), expected_version=1))
    with pytest.raises(PermissionDenied):
        core.presigned.prepare(core.publisher_of("globex"), order(ACME, policy("a")))
    with pytest.raises(InvalidField):
        core.presigned.prepare(core.admin, order(ACME, policy("a"), lifetime_s=367 * DAY))


def test_a_lifetime_ends_with_the_keys_unless_it_was_asked_for(core: Core, owners: list[PrivateKeySigner]) -> None:
    keys = with_keys(core, "acme", owners[0].public_key, valid_for=20 * DAY)
    keys |= {
        key_id: entry
        for key_id, entry in with_keys(core, "acme", owners[1].public_key, valid_for=10 * DAY).items()
        if key_id == owners[1].public_key.key_id
    }
    keys |= {
        key_id: entry
        for key_id, entry in with_keys(core, "acme", owners[2].public_key, valid_for=5 * DAY).items()
        if key_id == owners[2].public_key.key_id
    }
    core.roots.publish(core.admin, "acme", next_root(core, keys=keys))
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("a")))
    manifest = load(prepared.envelope.payload, Manifest)
    # As long as two of them last.
    assert manifest.expires_at - manifest.issued_at == 10 * DAY
    with pytest.raises(ExpiryExceedsKey, match="ask for a shorter lifetime"):
        core.presigned.prepare(core.admin, order(ACME, policy("a"), lifetime_s=11 * DAY))
    core.clock.advance(10 * DAY)
    with pytest.raises(AkpolicyError, match="publish a root that names new ones"):
        core.presigned.prepare(core.admin, order(ACME, policy("a")))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 2}, VersionConflict),
        ({"epoch": 2}, EpochMismatch),
        ({"expires_at": 1_800_000_000}, FieldInvalid),
        ({"not_before": 1_700_000_000, "issued_at": 1_700_000_000, "expires_at": 1_700_003_600}, BundleExpired),
        ({"expires_at": 1_800_000_000 + 367 * DAY}, LifetimeTooLong),
        ({"issued_at": 1_800_000_000 + 3600}, IssuedInFuture),
        ({"scope": "org/globex"}, UnknownKey),
        ({"scope": "org/acme/team/red/x"}, FieldInvalid),
        ({"deleted": True, "content": None}, InvalidField),
    ],
)
def test_a_bundle_that_hosts_would_refuse_leaves_no_trace(
    core: Core, owners: list[PrivateKeySigner], changes: dict[str, Any], error: type[AkpolicyError]
) -> None:
    before = view_of(core)
    envelope, content = signed(core, owners, policy("a"), **changes)
    for dry_run in (True, False):
        with pytest.raises(error):
            bring(core, envelope, content, dry_run=dry_run)
    assert view_of(core) == before
    assert core.announced == []


def test_signatures_are_verified(core: Core, owners: list[PrivateKeySigner]) -> None:
    envelope, content = signed(core, owners, policy("a"))
    payload = envelope.payload
    wrong = SignedEnvelope(PayloadType.BUNDLE, payload + b" ", envelope.signatures)
    own = core.vault.create()
    for bad, error in (
        (sign(PayloadType.BUNDLE, payload, owners[:1]), ThresholdNotMet),
        (sign(PayloadType.BUNDLE, payload, owners[:1] * 2), ThresholdNotMet),
        (sign(PayloadType.BUNDLE, payload, [own]), UnknownKey),
        (sign(PayloadType.BUNDLE, payload, []), EnvelopeMalformed),
        (sign(PayloadType.ROLLBACK, payload, owners[:2]), PayloadTypeMismatch),
        (wrong, SignatureInvalid),
    ):
        with pytest.raises(error):
            bring(core, bad, content)
    platform = current_root(core).bundle_role(GLOBAL)
    assert platform is not None
    with pytest.raises(KeyNotAuthorised):
        bring(core, sign(PayloadType.BUNDLE, payload, [core.vault.load(platform.keys[0])]), content)


def test_content_is_checked_as_any_other_policies(core: Core, owners: list[PrivateKeySigner]) -> None:
    envelope, content = signed(core, owners, policy("a"))
    with pytest.raises(ContentDigestMismatch):
        bring(core, envelope, content.replace(b"developer", b"intruders"))
    for text in ("permit (", '@id("p")\npermit (principal, action, resource)\nwhen { principal.x == 1 };'):
        blob = encode_content([("p", text)])
        envelope, _ = signed(core, owners, policy("a"), content=describe_content(blob, 1).model_dump())
        with pytest.raises(PolicySetInvalid):
            bring(core, envelope, blob)
    blob = dump({"policies": [{"id": "a", "text": policy("a")}], "schema": "entity User;"})
    envelope, _ = signed(core, owners, policy("a"), content=describe_content(blob, 1).model_dump())
    with pytest.raises(SchemaUnsupported):
        bring(core, envelope, blob)


def test_permits_of_keys_that_may_only_forbid_are_refused(core: Core, owners: list[PrivateKeySigner]) -> None:
    keys = [owner.public_key for owner in owners]
    roles = with_role(core, "acme", "bundle", ACME, *keys, threshold=2, grants=False)
    core.roots.publish(core.admin, "acme", next_root(core, roles=roles))
    with pytest.raises(KeyNotAuthorised, match="policy `a` permits"):
        bring(core, *signed(core, owners, policy("a")))
    assert bring(core, *signed(core, owners, policy("f", effect="forbid"))).revision.version == 1


def test_of_two_bundles_of_one_version_the_second_is_prepared_again(core: Core, owners: list[PrivateKeySigner]) -> None:
    bundles = [signed(core, owners, policy(f"p{number}")) for number in range(4)]
    won: list[int] = []
    lost: list[int] = []

    def work(envelope: SignedEnvelope, content: bytes) -> None:
        try:
            won.append(bring(core, envelope, content).revision.version)
        except VersionConflict as conflict:
            lost.append(conflict.current)

    threads = [threading.Thread(target=work, args=bundle) for bundle in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (won, lost) == ([1], [1, 1, 1])


def test_the_current_bundle_again_changes_nothing(core: Core, owners: list[PrivateKeySigner]) -> None:
    envelope, content = signed(core, owners, policy("a"))
    first = bring(core, envelope, content, idempotency_key="k")
    seq = view_of(core).seq
    for again in (bring(core, envelope, content), bring(core, envelope, content, idempotency_key="k")):
        assert (again.repeated, again.revision) == (True, first.revision)
    assert view_of(core).seq == seq
    other, more = signed(core, owners, policy("b"))
    with pytest.raises(IdempotencyKeyReused):
        bring(core, other, more, idempotency_key="k")
    bring(core, other, more)
    # With its key it is still the answer of then; without, it is an old version.
    assert bring(core, envelope, content, idempotency_key="k").revision == first.revision
    with pytest.raises(VersionConflict):
        bring(core, envelope, content)


def test_a_dry_run_says_what_hosts_make_of_it(core: Core, owners: list[PrivateKeySigner]) -> None:
    envelope, content = signed(core, owners, policy("a"))
    before = view_of(core)
    assert bring(core, envelope, content, dry_run=True).dry_run
    assert view_of(core) == before
    assert not bring(core, envelope, content).repeated


def test_who_may_not_publish_a_scope_may_not_bring_it_either(core: Core, owners: list[PrivateKeySigner]) -> None:
    envelope, content = signed(core, owners, policy("a"))
    with pytest.raises(PermissionDenied):
        core.presigned.publish(core.publisher_of("globex"), EnvelopeOrder(envelope, content))
    assert core.presigned.publish(core.publisher_of("acme"), EnvelopeOrder(envelope, content)).revision.version == 1


def test_a_global_of_foreign_keys_goes_to_the_orgs_whose_roots_name_them(core: Core) -> None:
    publish(core, "before", scope=GLOBAL)
    globex = Follower(core, "globex")
    untouched = globex.follow()
    [owner] = new_signers(1)
    roles = with_role(core, "acme", "bundle", GLOBAL, owner.public_key)
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", owner.public_key), roles=roles))
    prepared = core.presigned.prepare(core.admin, order(GLOBAL, policy("foreign")))
    bring(core, sign(PayloadType.BUNDLE, prepared.envelope.payload, [owner]), prepared.content)
    acme = Follower(core)
    acme.follow()
    assert acme.policies(GLOBAL) == ["foreign"]
    assert globex.follow() == untouched
    prepared = core.presigned.prepare(core.admin, order(GLOBAL, policy("by-nobody")))
    by_nobody = sign(PayloadType.BUNDLE, prepared.envelope.payload, new_signers(1))
    with pytest.raises(UnknownKey):
        bring(core, by_nobody, prepared.content)
