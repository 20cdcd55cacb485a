"""Attacks on roots: who vouches for the next one, and what it may say (A-98 to A-110)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy import __version__
from akpolicy.errors import (
    FieldInvalid,
    RootChainGap,
    RootChainTooLong,
    RootExpired,
    RootRollback,
    RootThresholdNew,
    RootThresholdOld,
    RootUnanchored,
    SidecarTooOld,
)
from akpolicy.keys import AnchorSet
from akpolicy.limits import MAX_ROTATIONS
from akpolicy.signing import PrivateKeySigner
from tests.attacks.stage import FORBID, ORG, REGISTER, Attack, Stage, bundle_of, roles_with, root_of
from tests.simulators.host import HostSimulator
from tests.simulators.office import keep_alive, root_message
from tests.simulators.org import DAY, ConfiguredAnchor, OrgSimulator, delegation, role

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.envelope import SignedEnvelope

    Signers = Callable[[PrivateKeySigner, PrivateKeySigner], list[PrivateKeySigner]]


def rotated(org: OrgSimulator, signed_by: Signers) -> SignedEnvelope:
    """Return root 2, whose root role has a new key, signed as `signed_by(old, new)` says."""
    new = PrivateKeySigner.generate()
    roles = {**org.root_document()["roles"], "root": role(new)}
    return org.root_envelope(version=2, signers=[new], roles=roles, signed_by=signed_by(org.root_signer, new))


ROTATIONS = REGISTER.table(
    (
        98,
        "a rotation by the old keys alone is refused",
        RootThresholdNew,
        lambda o: rotated(o, lambda a, _: [a]),
    ),
    (
        99,
        "a rotation by the new keys alone is refused",
        RootThresholdOld,
        lambda o: rotated(o, lambda _, b: [b]),
    ),
)


@pytest.mark.parametrize("attack", ROTATIONS, ids=str)
def test_a_rotation_needs_the_old_and_the_new(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, root_of(attack.act(stage.org)))


def test_a_rotation_by_both_is_followed_and_survives(stage: Stage) -> None:
    root = stage.office.add_root(rotated(stage.org, lambda a, b: [a, b]))
    stage.host.hear(*root_of(root)).beat()
    assert stage.host.nacks == []
    assert stage.host.updater.root_version == 2
    stage.assert_survives_restart(stage.facts())


@REGISTER.single(100, "one stolen root key of two is not enough", RootThresholdOld)
def test_one_stolen_key_is_not_enough(tmp_path: Path, attack: Attack) -> None:
    stage, second = Stage(tmp_path / "state"), PrivateKeySigner.generate()
    org = stage.org
    roles = {**roles_with(org, delegation(ORG, org.bundle_signer)), "root": role(org.root_signer, second, threshold=2)}
    stage.office.roots = [org.root_envelope(signers=[second], roles=roles, signed_by=[org.root_signer, second])]
    stage.enforce()
    mine = {**roles, "root": role(org.root_signer)}
    stage.refuses(attack, root_of(org.root_envelope(version=2, roles=mine, signed_by=[org.root_signer])))


@REGISTER.single(101, "a gap in the chain is refused", RootChainGap)
def test_a_root_too_far_ahead_is_refused(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, root_of(stage.org.root_envelope(version=3)))


@REGISTER.single(102, "an older root again is a rollback", RootRollback)
def test_an_older_root_is_refused(stage: Stage, attack: Attack) -> None:
    first = stage.office.root
    stage.host.hear(*root_of(stage.office.add_root(rotated(stage.org, lambda a, b: [a, b])))).beat()
    stage.refuses(attack, root_of(first))


@REGISTER.single(102, "an older version that today's keys signed is a rollback", RootRollback)
def test_a_root_that_goes_back_is_refused(stage: Stage, attack: Attack) -> None:
    stage.host.hear(*root_of(stage.office.add_root(stage.org.root_envelope(version=2)))).beat()
    stage.refuses(attack, root_of(stage.org.root_envelope(version=1, expires_at=int(stage.host.clock.now()) + DAY)))


@REGISTER.single(103, "removing the newest root from the disk is a rollback", RootRollback)
def test_a_removed_root_does_not_bring_the_old_keys_back(stage: Stage, attack: Attack) -> None:
    stage.host.hear(*root_of(stage.office.add_root(rotated(stage.org, lambda a, b: [a, b])))).beat()
    (stage.host.place / "roots" / "00000002").unlink()
    again = stage.host.restart()
    assert ("root", "RootRollback") in [(t.subject, t.error.code) for t in again.troubles]
    assert again.counted("RootRollback") == 1
    assert again.decide() is None
    # Nor does a server that ends the chain before it.
    again.new_session().hello()
    again.hear(root_message(stage.office.roots[0]), *bundle_of(*stage.old[ORG]))
    assert again.nacks[:1] == ["RootRollback"]
    assert again.versions == {}
    # The whole chain heals it.
    stage.host = again.connect()
    assert stage.host.standing().error is None
    stage.assert_decides()


UNANCHORED = REGISTER.table(
    (104, "a stranger's first root is refused", RootUnanchored, lambda o: o.root_envelope(signed_by=[o.bundle_signer])),
    (
        104,
        "an attacker's org is refused",
        RootUnanchored,
        lambda o: OrgSimulator("acme", o.clock).root_envelope(),
    ),
)


@pytest.mark.parametrize("attack", UNANCHORED, ids=str)
def test_a_first_root_is_anchored(tmp_path: Path, attack: Attack) -> None:
    stage = Stage(tmp_path / "state")
    stage.refuses_without_policy(attack, [*root_of(attack.act(stage.org)), keep_alive()])


@REGISTER.single(105, "an expired root lets nothing new in", RootExpired)
def test_an_expired_root_is_refused_and_drops_nothing(tmp_path: Path, attack: Attack) -> None:
    stage = Stage(tmp_path / "state")
    stage.office.roots = [stage.org.root_envelope(expires_at=int(stage.host.clock.now()) + 100)]
    stage.enforce()
    stage.host.clock.advance(100)
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, FORBID)), decides=False)
    assert stage.host.versions == {"global": 2, ORG: 2}
    assert stage.host.decide() is None


@REGISTER.single(105, "a newest root that has expired is refused", RootExpired)
def test_only_the_newest_roots_expiry_counts(stage: Stage, attack: Attack) -> None:
    now = int(stage.host.clock.now())
    second = stage.org.root_envelope(version=2, expires_at=now + 10)
    third = stage.org.root_envelope(version=3, expires_at=now + 20)
    stage.host.clock.advance(20)
    nacks = len(stage.host.nacks)
    stage.host.hear(root_message(second), root_message(third), keep_alive())
    assert stage.host.nacks[nacks:] == ["RootExpired"]
    assert stage.host.counted("RootExpired") == 1
    assert stage.host.updater.root_version == 3
    assert stage.host.versions == {"global": 2, ORG: 2}
    # The next one is good: it does not matter that those between have expired.
    stage.host.hear(root_message(stage.org.root_envelope(version=4)), keep_alive())
    assert stage.host.nacks[nacks:] == ["RootExpired"]
    stage.assert_decides()


def unrevoked(stage: Stage) -> SignedEnvelope:
    """Let the host follow a revocation, and return a root that takes it back."""
    keeper, leaked = PrivateKeySigner.generate(), stage.org.rollback_signer.public_key.key_id
    roles = roles_with(stage.org, delegation(ORG, stage.org.bundle_signer), rollback=[])
    second = stage.org.root_envelope(version=2, roles=roles, revoked={leaked: int(stage.host.clock.now())})
    stage.office.add_root(second)
    stage.host.hear(*root_of(second)).beat()
    return stage.org.root_envelope(version=3, signers=[keeper], roles=roles)


BAD_ROOTS = REGISTER.table(
    (106, "a revocation cannot be undone", FieldInvalid, unrevoked),
    (107, "a threshold of 0 is refused", FieldInvalid, lambda s: with_root_role(s.org, threshold=0)),
    (107, "a threshold that a key named twice would meet is refused", FieldInvalid, lambda s: with_root_role(
        s.org, keys=[s.org.root_signer.public_key.key_id] * 2, threshold=2
    )),
    (108, "a role with a revoked key is refused", FieldInvalid, lambda s: s.org.root_envelope(
        version=2, revoked={s.org.bundle_signer.public_key.key_id: 1}
    )),
)  # fmt: skip


def with_root_role(org: OrgSimulator, **changes: Any) -> SignedEnvelope:
    roles = org.root_document()["roles"]
    return org.root_envelope(version=2, roles={**roles, "root": {**roles["root"], **changes}})


@pytest.mark.parametrize("attack", BAD_ROOTS, ids=str)
def test_a_root_that_says_what_it_may_not_is_refused(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, root_of(attack.act(stage)))


@REGISTER.single(109, "a root that demands a newer sidecar is refused", SidecarTooOld)
def test_a_root_may_demand_an_upgrade(stage: Stage, attack: Attack) -> None:
    major, minor, patch = (int(part) for part in __version__.split("."))
    stage.refuses(attack, root_of(stage.org.root_envelope(version=2, min_sidecar=f"{major}.{minor}.{patch + 1}")))


@REGISTER.single(110, "257 rotations at once are refused", RootChainTooLong)
def test_a_chain_is_followed_in_portions(stage: Stage, attack: Attack) -> None:
    chain = [stage.office.add_root(stage.org.root_envelope(version=v)) for v in range(2, MAX_ROTATIONS + 2)]
    stage.host.hear(*(root_message(root) for root in chain)).beat()
    assert stage.host.updater.root_version == MAX_ROTATIONS + 1
    assert stage.host.nacks == []
    last = stage.office.add_root(stage.org.root_envelope(version=MAX_ROTATIONS + 2))
    stage.refuses(attack, root_of(last))
    # The rest is followed on the next connection.
    stage.host.connect()
    assert stage.host.updater.root_version == MAX_ROTATIONS + 2


def test_a_new_host_with_a_new_anchor_begins_where_that_key_begins(stage: Stage) -> None:
    new = PrivateKeySigner.generate()
    roles = {**stage.org.root_document()["roles"], "root": role(new)}
    second = stage.org.root_envelope(version=2, signers=[new], roles=roles, signed_by=[stage.org.root_signer, new])
    stage.office.add_root(second)
    anchors = AnchorSet.parse([ConfiguredAnchor(new.public_key.anchor)])
    place = stage.host.place.parent / "new"
    host = HostSimulator(place, org=stage.org, clock=stage.host.clock, anchors=anchors, office=stage.office)
    host.connect()
    assert host.nacks == []
    assert host.updater.root_version == 2
    assert host.restart().troubles == ()
