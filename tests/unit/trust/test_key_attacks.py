"""Attacks on keys: validity, revocation, and anchors as configured."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import (
    AnchorFormat,
    DuplicateAnchor,
    ExpiryExceedsKey,
    FieldInvalid,
    KeyExpired,
    KeyNotYetValid,
    KeyRevoked,
    RootUnanchored,
    WeakKey,
)
from akpolicy.keys import MAX_ANCHOR_CHARS, MAX_ANCHORS, AnchorSet, decode_public_key, parse_anchor
from akpolicy.limits import CLOCK_SKEW_S
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust import Judge
from tests.simulators.org import DAY, ConfiguredAnchor, delegation, role
from tests.unit.trust.scene import check_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.errors import AkpolicyError
    from tests.unit.trust.scene import Scene


def with_bundle_key(scene: Scene, **entry: Any) -> Scene:
    """Begin anew with a root that says this of the bundle key."""
    document = scene.org.root_document()
    keys = document["keys"]
    keys[scene.org.bundle_signer.public_key.key_id].update(entry)
    return scene.with_root(keys=keys)


def test_an_expired_key_is_refused(scene: Scene) -> None:
    now = int(scene.now)
    with_bundle_key(scene, valid_until=now)
    scene.refuses(KeyExpired, *scene.org.bundle_envelope(scene.org.scope, not_before=now - 10, expires_at=now))


def test_a_key_expires_in_the_second_that_it_names(scene: Scene) -> None:
    until = int(scene.now) + 10
    with_bundle_key(scene, valid_until=until)
    bundle = scene.org.bundle_envelope(scene.org.scope, expires_at=until)
    scene.clock.advance(9.9)
    scene.judged(*bundle)
    scene.clock.advance(0.1)
    scene.refuses(KeyExpired, *bundle)


def test_a_key_that_is_not_valid_yet_is_refused(scene: Scene) -> None:
    with_bundle_key(scene, valid_from=int(scene.now) + CLOCK_SKEW_S + 1)
    bundle = scene.org.bundle_envelope(scene.org.scope)
    scene.refuses(KeyNotYetValid, *bundle)
    scene.clock.advance(1)
    scene.accept(*bundle)


def revoking_root(scene: Scene) -> dict[str, Any]:
    org = scene.org
    return {
        "revoked": {org.bundle_signer.public_key.key_id: int(scene.now)},
        "roles": {"root": role(org.root_signer), "bundle": [delegation(org.scope, org.platform_signer)]},
    }


def test_a_revoked_key_is_refused(scene: Scene) -> None:
    scene.with_root(**revoking_root(scene))
    scene.refuses(KeyRevoked, *scene.org.bundle_envelope(scene.org.scope))


def test_a_revoked_keys_signature_is_refused_beside_a_good_one(scene: Scene) -> None:
    scene.with_root(**revoking_root(scene))
    org = scene.org
    both = org.bundle_envelope(org.scope, signed_by=[org.platform_signer, org.bundle_signer])
    scene.refuses(KeyRevoked, *both)
    scene.accept(*org.bundle_envelope(org.scope, signed_by=[org.platform_signer]))


def test_what_is_kept_is_dropped_when_its_key_is_revoked(scene: Scene) -> None:
    restarted = Judge("acme", scene.org.anchors, marks=scene.judge.marks)
    scene.trust(restarted, **revoking_root(scene))
    with pytest.raises(KeyRevoked):
        restarted.judge_manifest(scene.first, scene.now, held=True)


def test_a_bundle_that_outlives_its_key_is_refused(scene: Scene) -> None:
    until = int(scene.now) + DAY
    with_bundle_key(scene, valid_until=until)
    refusal = scene.refuses(ExpiryExceedsKey, *scene.org.bundle_envelope(scene.org.scope, expires_at=until + 1))
    assert refusal.message == f"bundle of `org/acme` expires at {until + 1}, after its signing keys"
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, expires_at=until))


def test_a_key_that_does_not_count_cannot_vouch_for_the_lifetime(scene: Scene) -> None:
    # The only key that is valid ends tomorrow; one that becomes valid later must not stretch the bundle.
    org, later, now = scene.org, PrivateKeySigner.generate(), int(scene.now)
    keys = org.root_document(signers=[later])["keys"]
    keys[org.bundle_signer.public_key.key_id]["valid_until"] = now + DAY
    keys[later.public_key.key_id]["valid_from"] = now + DAY
    roles = {"root": role(org.root_signer), "bundle": [delegation(org.scope, org.bundle_signer, later)]}
    scene.with_root(keys=keys, roles=roles)
    scene.refuses(
        ExpiryExceedsKey,
        *org.bundle_envelope(org.scope, signed_by=[org.bundle_signer, later], expires_at=now + 20 * DAY),
    )


def anchor(raw: bytes) -> str:
    return "ed25519:" + base64.b64encode(raw).decode("ascii")


GOOD = PrivateKeySigner.generate().public_key

ANCHORS: list[tuple[str, type[AkpolicyError], str]] = [
    ("low order", WeakKey, anchor((2**255 - 20).to_bytes(32, "little"))),
    ("all zero", WeakKey, anchor(bytes(32))),
    ("non-canonical", WeakKey, anchor((2**255 - 1).to_bytes(32, "little"))),
    ("age recipient", AnchorFormat, "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"),
    ("age private key", AnchorFormat, "AGE-SECRET-KEY-1" + "Q" * 58),
    ("31 bytes", AnchorFormat, anchor(GOOD.raw[:31])),
    ("33 bytes", AnchorFormat, anchor(GOOD.raw + b"\x00")),
    ("empty", AnchorFormat, "ed25519:"),
    ("too much padding", AnchorFormat, anchor(GOOD.raw) + "="),
    ("padding in its midst", AnchorFormat, "ed25519:" + "A" * 20 + "=" + "A" * 23),
    ("no prefix", AnchorFormat, base64.b64encode(GOOD.raw).decode()),
    ("prefix in capitals", AnchorFormat, anchor(GOOD.raw).replace("ed25519", "ED25519")),
    ("another algorithm", AnchorFormat, "ssh-ed25519 AAAAC3Nz"),
    ("a whole PEM", AnchorFormat, PrivateKeySigner.generate().to_pem().decode()),
    ("not base64", AnchorFormat, "ed25519:?" + "A" * 42),
    ("one character too few", AnchorFormat, "ed25519:" + "A" * 41),
    ("beyond ASCII", AnchorFormat, "ed25519:" + "\u00e4" * 43),
    ("nothing", AnchorFormat, ""),
    ("key id", AnchorFormat, GOOD.key_id),
]


@pytest.mark.parametrize(("error", "text"), [c[1:] for c in ANCHORS], ids=[c[0] for c in ANCHORS])
def test_what_is_no_anchor_is_refused(error: type[AkpolicyError], text: str) -> None:
    with pytest.raises(error) as caught:
        AnchorSet.parse([ConfiguredAnchor(text)])
    assert type(caught.value) is error
    check_message(caught.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "is an age .* write `ed25519:<base64>`"),
        (GOOD.key_id, "looks like a key id; .* write `ed25519:<base64>`"),
        (GOOD.key_id.upper(), "looks like a key id"),
        ("x" * MAX_ANCHOR_CHARS, "is not a trust anchor; write `ed25519:<base64"),
        ("x" * (MAX_ANCHOR_CHARS + 1), "is longer than .* write `ed25519:<base64"),
    ],
    ids=["age recipient", "key id", "key id in capitals", "as long as allowed", "too long"],
)
def test_it_is_said_what_to_write_instead(text: str, advice: str) -> None:
    with pytest.raises(AnchorFormat, match=advice):
        parse_anchor(text)


@pytest.mark.parametrize("more", [" ", "\n", "=", "A"])
def test_a_key_in_a_document_has_nothing_behind_it(more: str) -> None:
    text = base64.b64encode(GOOD.raw).decode()
    assert decode_public_key(text) == GOOD
    with pytest.raises(AnchorFormat):
        decode_public_key(text + more)


def test_a_private_key_in_the_wrong_place_is_not_repeated() -> None:
    for secret in ("AGE-SECRET-KEY-1" + "QZ" * 29, "MC4CAQAwBQYDK2VwBCIEI" + "QZ" * 21 + "="):
        with pytest.raises(AnchorFormat) as caught:
            parse_anchor(secret)
        assert "QZQZ" not in caught.value.message


@pytest.mark.parametrize(
    "spelling",
    [
        lambda raw: "ed25519:" + base64.b64encode(raw).decode(),
        lambda raw: "ed25519:" + base64.urlsafe_b64encode(raw).decode(),
        lambda raw: "ed25519:" + base64.urlsafe_b64encode(raw).decode().rstrip("="),
        lambda raw: " ed25519:" + base64.b64encode(raw).decode() + "\n",
    ],
    ids=["base64", "base64url", "base64url without padding", "with white space around"],
)
def test_an_anchor_has_several_spellings_of_one_key(spelling: Callable[[bytes], str]) -> None:
    assert parse_anchor(spelling(GOOD.raw)) == GOOD
    with pytest.raises(DuplicateAnchor):
        AnchorSet.parse([ConfiguredAnchor(GOOD.anchor), ConfiguredAnchor(spelling(GOOD.raw))])


def test_an_anchor_twice_is_refused() -> None:
    with pytest.raises(DuplicateAnchor, match=f"{GOOD.anchor}. is configured twice"):
        AnchorSet.parse([ConfiguredAnchor(GOOD.anchor), ConfiguredAnchor(GOOD.anchor)], threshold=2)


@pytest.mark.parametrize(("anchors", "threshold"), [(1, 2), (1, 0), (1, -1), (0, 0), (0, 1), (MAX_ANCHORS + 1, 1)])
def test_a_threshold_beyond_the_anchors_is_refused(anchors: int, threshold: int) -> None:
    entries = [ConfiguredAnchor(PrivateKeySigner.generate().public_key.anchor) for _ in range(anchors)]
    with pytest.raises(AnchorFormat, match=f"^{anchors} trust anchors with threshold {threshold}; need 1 to"):
        AnchorSet.parse(entries, threshold)


def test_as_many_anchors_as_are_allowed_are_read_and_may_all_be_asked_for() -> None:
    entries = [ConfiguredAnchor(PrivateKeySigner.generate().public_key.anchor) for _ in range(MAX_ANCHORS)]
    anchors = AnchorSet.parse(entries, threshold=MAX_ANCHORS)
    assert (len(anchors.anchors), anchors.threshold) == (MAX_ANCHORS, MAX_ANCHORS)


def test_a_set_of_anchors_has_one_digest_which_hosts_keep() -> None:
    other = PrivateKeySigner.generate().public_key.anchor
    entries = [ConfiguredAnchor(GOOD.anchor, valid_from=10), ConfiguredAnchor(other, valid_until=20)]
    lines = sorted([f"{GOOD.anchor} 10 None", f"{other} None 20"])
    expected = hashlib.sha256("\n".join(["2", *lines]).encode()).hexdigest()
    assert AnchorSet.parse(entries, threshold=2).digest == expected
    assert AnchorSet.parse(reversed(entries), threshold=2).digest == expected
    assert AnchorSet.parse(entries, threshold=1).digest != expected


def test_an_anchor_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(AnchorFormat, match="ends before it begins"):
        AnchorSet.parse([ConfiguredAnchor(GOOD.anchor, valid_from=10, valid_until=10)])


@pytest.mark.parametrize(
    "window",
    [{"valid_from": 1}, {"valid_until": 0}, {"valid_from": -10, "valid_until": 0}],
    ids=["not valid yet", "expired this second", "expired"],
)
def test_an_anchor_counts_within_its_validity_only(scene: Scene, window: dict[str, int]) -> None:
    at = {name: int(scene.now) + offset for name, offset in window.items()}
    anchors = AnchorSet.parse([ConfiguredAnchor(scene.org.anchor, **at)])
    scene.refuses_root(RootUnanchored, scene.root, Judge("acme", anchors))


@pytest.mark.parametrize(
    ("error", "public_key"),
    [
        (WeakKey, base64.b64encode(bytes(32)).decode()),
        (FieldInvalid, base64.b64encode(bytes(31)).decode()),
        (FieldInvalid, "\u001b[2J"),
    ],
    ids=["all zero", "31 bytes", "no base64"],
)
def test_a_root_with_an_unusable_key_is_refused(scene: Scene, error: type[AkpolicyError], public_key: str) -> None:
    document = scene.org.root_document()
    next(iter(document["keys"].values()))["public_key"] = public_key
    scene.refuses_root(error, scene.org.root_envelope(keys=document["keys"]))
