"""From anchors to the newest root: followed as a host follows, or not at all."""

from __future__ import annotations

import pytest

from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import RootChainGap, RootMissing, RootThresholdOld, RootUnanchored
from akpolicy.keys import AnchorSet, TrustAnchor
from akpolicy.limits import MAX_ROTATIONS
from akpolicy.role_name import RoleName
from akpolicy.root_chain import follow, own_anchors
from akpolicy.root_change import AddKey, RemoveKey, next_root
from akpolicy.signing import PrivateKeySigner
from tests.simulators.org import sign
from tests.unit.ceremony.people import NOW, ORG, Ceremony

ROOT = RoleName("root")


def chain(length: int) -> tuple[list[SignedEnvelope], list[PrivateKeySigner]]:
    """Return roots that each exchange the only root key, and the keys."""
    ceremony = Ceremony(1, 1)
    keys, roots, root = [ceremony.owners[0]], [ceremony.envelope], ceremony.root
    for _ in range(length - 1):
        keys.append(PrivateKeySigner.generate())
        old, new = keys[-2].public_key, keys[-1].public_key
        root = next_root(root, [AddKey(ROOT, new), RemoveKey(ROOT, old.key_id)], NOW)
        roots.append(sign(PayloadType.ROOT, root.to_bytes(), keys[-2:]))
    return roots, keys


def anchors(*keys: PrivateKeySigner) -> AnchorSet:
    return AnchorSet(tuple(TrustAnchor(key.public_key) for key in keys))


def test_the_way_begins_at_the_oldest_root_that_the_anchors_signed() -> None:
    roots, keys = chain(4)
    for key in keys:
        assert follow(ORG, roots, anchors(key), NOW).document.version == 4


def test_a_way_is_as_long_as_it_is() -> None:
    roots, keys = chain(MAX_ROTATIONS + 3)
    assert follow(ORG, roots, anchors(keys[0]), NOW).document.version == MAX_ROTATIONS + 3


def test_an_expired_root_is_followed_so_that_the_next_one_can_be_made() -> None:
    roots, keys = chain(2)
    assert follow(ORG, roots, anchors(keys[0]), NOW + 10**9).document.version == 2


def test_a_missing_root_ends_the_way() -> None:
    ceremony = Ceremony(1, 1)
    third = next_root(ceremony.next(), [], NOW)
    roots = [ceremony.envelope, sign(PayloadType.ROOT, third.to_bytes(), ceremony.owners)]
    for given in (anchors(ceremony.owners[0]), None):
        with pytest.raises(RootChainGap):
            follow(ORG, roots, given, NOW)


def test_a_root_that_the_one_before_did_not_sign_ends_the_way() -> None:
    roots, keys = chain(2)
    forged = sign(PayloadType.ROOT, roots[1].payload, keys[1:])
    with pytest.raises(RootThresholdOld):
        follow(ORG, [roots[0], forged], anchors(keys[0]), NOW)


def test_roots_that_no_anchor_signed_are_not_believed() -> None:
    roots, _ = chain(2)
    with pytest.raises(RootUnanchored):
        follow(ORG, roots, anchors(PrivateKeySigner.generate()), NOW)


def test_without_anchors_the_oldest_root_is_taken_at_its_word_and_the_rest_is_judged() -> None:
    roots, keys = chain(3)
    assert follow(ORG, roots, None, NOW).document.version == 3
    assert own_anchors(roots[1]).anchors[0].key == keys[1].public_key


def test_no_root_is_an_error_that_says_how_to_begin() -> None:
    with pytest.raises(RootMissing, match="akpolicy root init"):
        follow(ORG, [], None, NOW)
