"""A host that lost its newest root: it takes nothing until the chain has led it through that root again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    Equivocation,
    RootChainGap,
    RootRollback,
)
from akpolicy.keys import AnchorSet
from akpolicy.signing import PrivateKeySigner
from tests.simulators.org import DAY, ConfiguredAnchor, role

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator
from tests.unit.sidecar.root_files import full_disk, refused

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


@pytest.fixture
def enforcing(host: HostSimulator) -> HostSimulator:
    """A host that enforces both its scopes."""
    return host.update(PERMIT).update(FORBID, scope="org/acme")


def test_another_root_does_not_replace_one_that_cannot_be_loaded(enforcing: HostSimulator) -> None:
    (enforcing.place / "roots" / "00000001").write_bytes(b"damaged")
    again = enforcing.restart()
    assert again.not_loaded[0] == ("root", "EnvelopeMalformed")
    assert again.updater.holdings.root_version == 0

    refused(again, Equivocation, enforcing.org.root_envelope(expires_at=int(enforcing.clock.now()) + DAY))


@pytest.fixture
def behind(enforcing: HostSimulator) -> HostSimulator:
    """A host that trusted root 3 and can load none."""
    for _ in range(2):
        enforcing.updater.apply_root(enforcing.office.rotate())
    (enforcing.place / "roots" / "00000003").unlink()
    again = enforcing.restart()
    assert again.not_loaded[0] == ("root", "RootRollback")
    return again


def test_a_host_that_is_behind_takes_nothing_but_roots(behind: HostSimulator) -> None:
    behind.updater.apply_root(behind.office.roots[0])

    for refuse in (lambda: behind.take(behind.office.current["global"]), behind.updater.end_roots):
        with pytest.raises(RootRollback):
            refuse()

    assert behind.updater.root_version == 0
    assert behind.versions == {}


def test_a_host_that_is_behind_is_healed_by_the_whole_chain(behind: HostSimulator) -> None:
    behind.connect()

    assert behind.updater.root_version == 3
    assert behind.versions == {"global": 1, "org/acme": 1}
    assert behind.standing().denial is None
    assert behind.restart().not_loaded == []


def test_after_a_chain_that_ended_early_the_next_connection_begins_anew(behind: HostSimulator) -> None:
    behind.updater.begin_roots()
    for root in behind.office.roots[:2]:
        behind.updater.apply_root(root)
    with pytest.raises(RootRollback):
        behind.updater.end_roots()

    assert behind.connect().updater.root_version == 3
    assert behind.nacks == []


def test_a_chain_that_ended_early_while_the_disk_was_full_leaves_nothing_behind(behind: HostSimulator) -> None:
    with full_disk(behind):
        for root in behind.office.roots[:2]:
            assert behind.updater.apply_root(root).not_kept is not None
        with pytest.raises(RootRollback):
            behind.updater.end_roots()

    assert behind.connect().updater.root_version == 3
    kept = behind.directory.state.root
    assert kept is not None
    assert (kept.first, kept.version) == (1, 3)
    assert behind.restart().not_loaded == []


def test_a_first_root_that_could_not_be_kept_comes_to_the_disk_with_the_next(new_host: HostSimulator) -> None:
    with full_disk(new_host):
        assert new_host.updater.apply_root(new_host.office.root).not_kept is not None
    assert new_host.updater.root_version == 0

    new_host.updater.apply_root(new_host.office.rotate())

    assert new_host.restart().updater.root_version == 2


def test_a_host_that_cannot_load_its_root_believes_only_a_chain_that_leads_through_it(behind: HostSimulator) -> None:
    # Signed by the configured anchor, which a root between may have replaced, and beyond what was trusted.
    shortcut = behind.org.root_envelope(version=4)

    with pytest.raises(RootChainGap, match="root version 4 does not come from version 3, which this host trusted"):
        behind.updater.apply_root(shortcut)
    assert behind.updater.root is None

    for root in behind.office.roots:
        behind.updater.apply_root(root)
    behind.updater.end_roots()
    assert behind.updater.root_version == 3
    assert behind.updater.apply_root(behind.office.rotate()).version == 4


def test_anchors_that_were_exchanged_for_their_like_are_no_shortcut(behind: HostSimulator) -> None:
    anchors = AnchorSet.parse([ConfiguredAnchor(behind.org.root_signer.public_key.anchor)])

    again = behind.restart(anchors=anchors)

    with pytest.raises(RootChainGap):
        again.updater.apply_root(again.org.root_envelope(version=4))


def test_a_chain_that_is_followed_from_other_anchors_is_followed_to_its_end(behind: HostSimulator) -> None:
    ours, another = behind.org.root_signer.public_key.anchor, PrivateKeySigner.generate().public_key.anchor
    anchors = AnchorSet.parse([ConfiguredAnchor(ours), ConfiguredAnchor(another)])
    again = behind.restart(anchors=anchors)

    again.updater.apply_root(again.office.roots[0])

    kept = again.directory.state.root
    assert kept is not None
    assert (kept.version, kept.anchors) == (3, anchors.digest)
    once_more = again.restart()
    with pytest.raises(RootChainGap):
        once_more.updater.apply_root(once_more.org.root_envelope(version=4))


def test_a_chain_that_begins_later_than_before_does_not_need_the_roots_before_it(behind: HostSimulator) -> None:
    (behind.place / "roots" / "00000001").write_bytes(b"damaged")
    # The operator configures the anchors of root 2, which the server's first root does not have.
    org, fresh = behind.org, PrivateKeySigner.generate()
    roles = {**org.root_document()["roles"], "root": role(fresh)}
    fourth = org.root_envelope(version=4, signers=[fresh], roles=roles, signed_by=[org.root_signer, fresh])
    behind.office.add_root(fourth)
    anchors = AnchorSet.parse([ConfiguredAnchor(fresh.public_key.anchor)])

    moved = behind.restart(anchors=anchors).connect()

    assert moved.updater.root_version == 4
    kept = moved.directory.state.root
    assert (kept.anchors if kept else None) == anchors.digest
    again = moved.restart()
    assert (again.not_loaded, again.updater.root_version) == ([], 4)
