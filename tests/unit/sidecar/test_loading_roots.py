"""At a start the chain of roots is followed again, from the anchors or from the newest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import HeartbeatRollback, RollbackDetected, RootRollback
from akpolicy.keys import AnchorSet
from akpolicy.signing import PrivateKeySigner
from akpolicy.wire import envelope_from_proto, envelope_to_bytes
from tests.simulators.org import DAY, ConfiguredAnchor, role

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator

from tests.unit.sidecar.state_files import FORBID, PERMIT, edit, write


@pytest.fixture
def rotated(enforcing: HostSimulator) -> HostSimulator:
    """A host that followed two rotations."""
    for _ in range(2):
        enforcing.updater.apply_root(enforcing.office.rotate())
    return enforcing.beat()


def test_the_chain_is_followed_again_from_the_anchors(rotated: HostSimulator) -> None:
    again = rotated.restart()

    assert (again.not_loaded, again.updater.root_version) == ([], 3)
    assert again.versions == rotated.versions


@pytest.mark.parametrize(
    ("version", "code"), [(1, "CacheMissing"), (2, "CacheMissing"), (3, "RootRollback")], ids=["first", "mid", "newest"]
)
def test_a_root_that_was_removed_leaves_nothing_that_can_be_loaded(
    rotated: HostSimulator, version: int, code: str
) -> None:
    (rotated.place / "roots" / f"{version:08d}").unlink()

    again = rotated.restart()

    assert again.not_loaded == [("root", code), ("global", "RootMissing"), ("org/acme", "RootMissing")]
    assert again.updater.root is None
    assert again.standing().denial is Reason.NO_POLICY
    assert again.connect().versions == rotated.versions
    assert again.restart().not_loaded == []


def test_what_was_accepted_once_is_not_forgotten_with_the_roots(rotated: HostSimulator) -> None:
    older = rotated.office.publish(PERMIT)
    rotated.hear(*rotated.office.bundle()).beat()
    known = rotated.office.heartbeat().heartbeat
    rotated.update(FORBID)
    (rotated.place / "roots" / "00000001").unlink()

    again = rotated.restart()
    for root in again.office.roots:
        again.updater.apply_root(root)
    with pytest.raises(RollbackDetected):
        again.take(older)
    with pytest.raises(HeartbeatRollback):
        again.updater.apply_heartbeat(envelope_from_proto(known.envelope), known.index, None)


def test_while_the_roots_are_followed_again_the_host_says_that_it_has_none(rotated: HostSimulator) -> None:
    (rotated.place / "roots" / "00000001").unlink()
    again = rotated.restart()

    said = []
    for root in again.office.roots:
        said.append(again.updater.root_version)
        again.updater.apply_root(root)

    assert [*said, again.updater.root_version] == [0, 0, 0, 3]
    with pytest.raises(RootRollback, match="root version 1 is older than version 3, which this host trusted"):
        _behind(rotated)


def _behind(host: HostSimulator) -> None:
    """Let only the first root come to a host that has lost it, and then a heartbeat."""
    (host.place / "roots" / "00000001").unlink()
    again = host.restart()
    again.updater.apply_root(again.office.roots[0])
    again.take(again.office.publish(PERMIT))


def test_a_start_that_finds_nothing_new_writes_nothing(rotated: HostSimulator) -> None:
    again = rotated.restart()
    written = (again.place / "state.json").stat().st_ino

    once_more = again.restart()

    assert once_more.not_loaded == []
    assert (once_more.place / "state.json").stat().st_ino == written


def test_a_state_that_names_no_root_is_no_way_to_one(rotated: HostSimulator) -> None:
    kept = rotated.directory.state.root
    assert kept is not None
    edit(rotated, root=kept.model_copy(update={"first": kept.version + 1}))

    assert rotated.restart().not_loaded[0] == ("root", "RootRollback")


def test_an_older_root_in_the_place_of_the_newest_is_noticed(rotated: HostSimulator) -> None:
    write(rotated.place / "roots" / "00000003", (rotated.place / "roots" / "00000002").read_bytes())

    assert rotated.restart().not_loaded[0] == ("root", "RootRollback")


def test_another_genuine_root_in_the_place_of_the_newest_is_noticed(rotated: HostSimulator) -> None:
    other = rotated.org.root_envelope(version=3, expires_at=int(rotated.clock.now()) + DAY)
    write(rotated.place / "roots" / "00000003", envelope_to_bytes(other))

    assert rotated.restart().not_loaded[0] == ("root", "RootRollback")


def test_anchors_of_a_later_root_of_the_chain_are_enough(enforcing: HostSimulator) -> None:
    org, fresh = enforcing.org, PrivateKeySigner.generate()
    roles = {**org.root_document()["roles"], "root": role(fresh)}
    second = org.root_envelope(version=2, signers=[fresh], roles=roles, signed_by=[org.root_signer, fresh])
    enforcing.updater.apply_root(enforcing.office.add_root(second))
    enforcing.beat()

    again = enforcing.restart(anchors=AnchorSet.parse([ConfiguredAnchor(fresh.public_key.anchor)]))

    assert (again.not_loaded, again.updater.root_version) == ([], 2)
    assert again.standing().denial is None
    assert again.directory.state.root is not None
    assert again.directory.state.root.anchors == again.anchors.digest


def test_anchors_of_no_root_of_the_chain_are_refused(rotated: HostSimulator) -> None:
    stranger = PrivateKeySigner.generate().public_key.anchor

    again = rotated.restart(anchors=AnchorSet.parse([ConfiguredAnchor(stranger)]))

    assert again.not_loaded[0] == ("root", "RootUnanchored")
    assert again.standing().denial is Reason.NO_POLICY
