"""Attacks on roots: who vouches for them, and what they may say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy import __version__
from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    Equivocation,
    FieldInvalid,
    IssuedInFuture,
    KeyNotAuthorised,
    MissingField,
    OrgMismatch,
    RootChainGap,
    RootExpired,
    RootMissing,
    RootUnanchored,
    SidecarTooOld,
    SignatureInvalid,
    ThresholdNotMet,
    UnknownField,
    UnknownKey,
    VersionJump,
)
from akpolicy.keys import AnchorSet
from akpolicy.limits import CLOCK_SKEW_S, MAX_VERSION_JUMP
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump
from akpolicy.trust import Judge
from tests.simulators.org import ABSENT, ConfiguredAnchor, OrgSimulator, delegation, role, sign
from tests.simulators.tampering import flip_bit, with_payload, with_signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.errors import AkpolicyError
    from tests.unit.trust.scene import Scene


def test_the_first_root_that_the_anchor_signed_is_trusted(scene: Scene) -> None:
    judge = Judge("acme", scene.org.anchors)
    trusted = judge.trust_root(scene.root, scene.now)
    assert judge.root is trusted
    assert trusted.document.org == "acme"
    assert trusted.digest == scene.root.digest().hex()


def test_the_trusted_root_again_changes_nothing(scene: Scene) -> None:
    before = scene.judge.root
    assert scene.judge.trust_root(scene.root, scene.now) is before


def test_no_bundle_is_believed_before_a_root(scene: Scene) -> None:
    with pytest.raises(RootMissing):
        Judge("acme", scene.org.anchors).judge_manifest(scene.first, scene.now)


def test_another_orgs_root_is_refused(scene: Scene) -> None:
    # The same anchor, because one operator has two orgs.
    other = OrgSimulator("globex", scene.clock)
    other.root_signer = scene.org.root_signer
    scene.refuses_root(OrgMismatch, other.root_envelope())
    scene.refuses_root(OrgMismatch, other.root_envelope(), scene.judge)


@pytest.mark.parametrize("version", [3, 257], ids=["gap", "far ahead"])
def test_a_root_that_is_not_the_next_is_refused(scene: Scene, version: int) -> None:
    scene.refuses_root(RootChainGap, scene.org.root_envelope(version=version), scene.judge)


def test_a_new_host_begins_with_the_root_that_its_anchor_signed(scene: Scene) -> None:
    judge = Judge("acme", scene.org.anchors)
    assert judge.trust_root(scene.org.root_envelope(version=7), scene.now).document.version == 7
    scene.refuses_root(VersionJump, scene.org.root_envelope(version=MAX_VERSION_JUMP + 1))


def test_another_root_of_the_trusted_version_is_refused(scene: Scene) -> None:
    other = scene.org.root_envelope(expires_at=int(scene.now) + 1000)
    scene.refuses_root(Equivocation, other, scene.judge)


@pytest.mark.parametrize(
    "signed_by",
    [lambda _: [PrivateKeySigner.generate()], lambda org: [org.bundle_signer], lambda org: [org.platform_signer]],
    ids=["a stranger", "the bundle key", "the platform key"],
)
def test_a_root_that_no_anchor_signed_is_refused(
    scene: Scene, signed_by: Callable[[OrgSimulator], list[PrivateKeySigner]]
) -> None:
    scene.refuses_root(RootUnanchored, scene.org.root_envelope(signed_by=signed_by(scene.org)))


def test_an_attackers_whole_org_is_refused(scene: Scene) -> None:
    scene.refuses_root(RootUnanchored, OrgSimulator("acme", scene.clock).root_envelope())


def test_a_tampered_root_is_refused(scene: Scene) -> None:
    scene.refuses_root(RootUnanchored, with_payload(scene.root, flip_bit(scene.root.payload, 999)))
    scene.refuses_root(RootUnanchored, with_signature(scene.root, lambda s: flip_bit(s, 0)))


def test_one_of_two_needed_anchors_is_not_enough(scene: Scene) -> None:
    org, second = scene.org, PrivateKeySigner.generate()
    both = AnchorSet.parse([ConfiguredAnchor(org.anchor), ConfiguredAnchor(second.public_key.anchor)], threshold=2)
    scene.refuses_root(RootUnanchored, scene.root, Judge("acme", both))
    twice = org.root_envelope(signed_by=[org.root_signer, org.root_signer])
    scene.refuses_root(RootUnanchored, twice, Judge("acme", both))
    Judge("acme", both).trust_root(org.root_envelope(signed_by=[org.root_signer, second]), scene.now)


def test_an_anchored_root_must_be_signed_by_its_own_role(scene: Scene) -> None:
    org, other = scene.org, PrivateKeySigner.generate()
    roles = {"root": role(other), "bundle": []}
    scene.refuses_root(KeyNotAuthorised, org.root_envelope(signers=[other], roles=roles))
    roles = {"root": role(org.root_signer, other, threshold=2), "bundle": []}
    scene.refuses_root(ThresholdNotMet, org.root_envelope(signers=[other], roles=roles))
    org.root_envelope(signers=[other], roles=roles, signed_by=[org.root_signer, other])


def test_an_anchored_root_that_does_not_list_its_signer_is_refused(scene: Scene) -> None:
    org, other = scene.org, PrivateKeySigner.generate()
    keys = {other.public_key.key_id: org.key_entry(other)}
    scene.refuses_root(UnknownKey, org.root_envelope(keys=keys, roles={"root": role(other), "bundle": []}))


def test_a_bad_signature_by_a_listed_key_spoils_a_root(scene: Scene) -> None:
    org = scene.org
    envelope = org.root_envelope(signed_by=[org.root_signer, org.bundle_signer])
    scene.refuses_root(SignatureInvalid, with_signature(envelope, lambda s: flip_bit(s, 0), index=1))


def test_an_expired_root_is_refused(scene: Scene) -> None:
    scene.clock.set_wall(scene.judge.root.document.expires_at if scene.judge.root else 0)
    scene.refuses_root(RootExpired, scene.root)


def test_an_expired_root_lets_nothing_new_in_but_drops_nothing(scene: Scene) -> None:
    scene.with_root(expires_at=int(scene.now) + 100)
    scene.accept(scene.first, scene.first_blob)
    scene.clock.advance(100)
    scene.refuses(RootExpired, *scene.org.bundle_envelope(scene.org.scope, version=2))


def test_a_root_from_the_future_is_refused(scene: Scene) -> None:
    scene.refuses_root(IssuedInFuture, scene.org.root_envelope(issued_at=int(scene.now) + CLOCK_SKEW_S + 1))
    Judge("acme", scene.org.anchors).trust_root(
        scene.org.root_envelope(issued_at=int(scene.now) + CLOCK_SKEW_S), scene.now
    )


def _one_root_role(org: OrgSimulator, **overrides: Any) -> dict[str, Any]:
    return {"root": {**role(org.root_signer), **overrides}, "bundle": []}


def _bundle_roles(org: OrgSimulator, *delegations: dict[str, Any]) -> dict[str, Any]:
    return {"root": role(org.root_signer), "bundle": list(delegations)}


BAD_ROOTS: list[tuple[str, type[AkpolicyError], Callable[[OrgSimulator], dict[str, Any]]]] = [
    ("threshold 0", FieldInvalid, lambda o: {"roles": _one_root_role(o, threshold=0)}),
    ("threshold over its keys", FieldInvalid, lambda o: {"roles": _one_root_role(o, threshold=2)}),
    ("threshold true", FieldInvalid, lambda o: {"roles": _one_root_role(o, threshold=True)}),
    (
        "the same key twice to reach the threshold",
        FieldInvalid,
        lambda o: {"roles": {"root": role(o.root_signer, o.root_signer, threshold=2), "bundle": []}},
    ),
    ("role without keys", FieldInvalid, lambda o: {"roles": _one_root_role(o, keys=[])}),
    ("role with a revoked key", FieldInvalid, lambda o: {"revoked": {o.bundle_signer.public_key.key_id: 1}}),
    ("heartbeat role with a revoked key", FieldInvalid, lambda o: {
        "revoked": {o.heartbeat_signer.public_key.key_id: 1}
    }),
    ("rollback role with a revoked key", FieldInvalid, lambda o: {
        "revoked": {o.rollback_signer.public_key.key_id: 1}
    }),
    ("role with an unlisted key", FieldInvalid, lambda o: {"roles": _one_root_role(o, keys=["0" * 64])}),
    ("delegation of another org's scope", FieldInvalid, lambda o: {
        "roles": _bundle_roles(o, delegation("org/globex", o.bundle_signer))
    }),
    ("delegation without segment boundary", FieldInvalid, lambda o: {
        "roles": _bundle_roles(o, delegation("org/acm", o.bundle_signer))
    }),
    ("two roles for one prefix", FieldInvalid, lambda o: {
        "roles": _bundle_roles(o, delegation(o.scope, o.bundle_signer), delegation(o.scope, o.platform_signer))
    }),
    ("path traversal in a prefix", FieldInvalid, lambda o: {
        "roles": _bundle_roles(o, delegation("org/acme/team/..", o.bundle_signer))
    }),
    ("grants as a number", FieldInvalid, lambda o: {
        "roles": _bundle_roles(o, {**delegation(o.scope, o.bundle_signer), "grants": 1})
    }),
    ("org with a slash", FieldInvalid, lambda _: {"org": "acme/team"}),
    ("version 0", FieldInvalid, lambda _: {"version": 0}),
    ("bad spec", FieldInvalid, lambda _: {"spec": 2}),
    ("spec true", FieldInvalid, lambda _: {"spec": True}),
    ("a bundle's type", FieldInvalid, lambda _: {"type": "bundle"}),
    ("no min_sidecar", MissingField, lambda _: {"min_sidecar": ABSENT}),
    ("no revoked", MissingField, lambda _: {"revoked": ABSENT}),
    ("min_sidecar of two parts", FieldInvalid, lambda _: {"min_sidecar": "0.1"}),
    ("an unknown field", UnknownField, lambda _: {"admin": True}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "fields"), [c[1:] for c in BAD_ROOTS], ids=[c[0] for c in BAD_ROOTS])
def test_a_root_that_says_what_it_may_not_is_refused(
    scene: Scene, error: type[AkpolicyError], fields: Callable[[OrgSimulator], dict[str, Any]]
) -> None:
    scene.refuses_root(error, scene.org.root_envelope(**fields(scene.org)))


def test_a_root_that_demands_a_newer_sidecar_is_refused(scene: Scene) -> None:
    major, minor, patch = (int(part) for part in __version__.split("."))
    for newer in (f"{major + 1}.0.0", f"{major}.{minor + 1}.0", f"{major}.{minor}.{patch + 1}", f"{major}.10000.0"):
        scene.refuses_root(SidecarTooOld, scene.org.root_envelope(min_sidecar=newer))
    scene.trust(Judge("acme", scene.org.anchors), min_sidecar=__version__)


def test_a_bundle_signed_as_a_root_by_the_anchor_is_no_root(scene: Scene) -> None:
    manifest = scene.org.manifest_document("global", b"{}", 1)
    envelope = sign(PayloadType.ROOT, dump(manifest), [scene.org.root_signer])
    judge = Judge("acme", scene.org.anchors)
    with pytest.raises((FieldInvalid, MissingField, UnknownField)):
        judge.trust_root(envelope, scene.now)
    assert judge.root is None
