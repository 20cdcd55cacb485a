"""Roots in the conversation with the server: each is answered once, and what it drops is asked for again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.decision import PolicySource, Reason
from akpolicy.limits import MAX_ROTATIONS
from akpolicy_sidecar.outstanding import DISK_PAUSE_S, LASTING_PAUSE_S, PASSING_PAUSE_S
from tests.simulators.office import keep_alive, root_message
from tests.simulators.org import OrgSimulator, delegation, role
from tests.unit.sidecar.conversation import (
    PERMIT,
    is_asked_for_again,
    is_live,
    messages_of,
)

if TYPE_CHECKING:
    from akpolicy.v1 import distribution_pb2 as pb
    from tests.simulators.host import HostSimulator

    Message = pb.SubscribeResponse


def answers(host: HostSimulator) -> list[tuple[bytes, str]]:
    """Return each answer that names an update: its nonce, and the code of a refusal or nothing."""
    found = []
    for message in host.sent:
        if message.HasField("ack"):
            found.append((message.ack.nonce, ""))
        elif message.nack.nonce:
            found.append((message.nack.nonce, message.nack.code))
    return found


def test_a_root_is_followed_and_acknowledged_with_its_version(host: HostSimulator) -> None:
    update = root_message(host.office.rotate())

    host.hear(update)

    ack = host.sent[-1].ack
    assert (ack.nonce, ack.root_version) == (update.root.nonce, 2)


def test_a_refused_root_is_told_and_bundles_wait_for_a_good_one(new_host: HostSimulator) -> None:
    foreign = OrgSimulator(clock=new_host.clock).root_envelope()
    held = new_host.office.publish(PERMIT)

    new_host.hear(root_message(foreign), *messages_of(held), root_message(new_host.office.root), *messages_of(held))

    assert new_host.nacks == ["RootUnanchored", "RootMissing"]
    assert new_host.versions == {"global": 1}


def test_every_root_is_answered_once(new_host: HostSimulator) -> None:
    # The server ends a stream on which an update is answered twice.
    foreign = OrgSimulator(clock=new_host.clock)
    roots = [root_message(foreign.root_envelope(version=version)) for version in (1, 2)]

    new_host.hear(*roots, keep_alive())

    assert answers(new_host) == [(roots[0].root.nonce, ""), (roots[1].root.nonce, "RootUnanchored")]


def test_a_root_that_is_passed_over_is_acknowledged_once_a_later_one_is_believed(new_host: HostSimulator) -> None:
    foreign = root_message(OrgSimulator(clock=new_host.clock).root_envelope())
    good = root_message(new_host.office.root)

    new_host.hear(foreign, good, keep_alive())

    assert answers(new_host) == [(foreign.root.nonce, ""), (good.root.nonce, "")]
    assert new_host.nacks == []


def test_a_refused_root_is_not_refused_again_for_leaving_the_host_without_one(new_host: HostSimulator) -> None:
    other_org = new_host.org.root_envelope(org="globex", roles=globex_roles(new_host.org))
    update = root_message(other_org)

    new_host.hear(update, keep_alive())

    assert answers(new_host) == [(update.root.nonce, "OrgMismatch")]
    assert new_host.nacks == ["OrgMismatch"]


def globex_roles(org: OrgSimulator) -> dict[str, object]:
    return {"root": role(org.root_signer), "bundle": [delegation("global", org.platform_signer)]}


def test_a_newest_root_that_has_expired_is_acknowledged_and_the_state_of_the_host_is_told(host: HostSimulator) -> None:
    update = root_message(host.office.rotate(expires_at=int(host.clock.now()) + 10))
    host.clock.advance(10)

    host.hear(update, keep_alive())

    assert answers(host)[-1] == (update.root.nonce, "")
    assert (host.sent[-1].nack.code, host.sent[-1].nack.nonce) == ("RootExpired", b"")
    assert not is_live(host)


def drop_and_restore(host: HostSimulator) -> list[Message]:
    """Return two roots: the first stands behind `global` only, the second behind all again."""
    org = host.org
    roles = {**org.root_document()["roles"], "bundle": [delegation("global", org.platform_signer)]}
    return [root_message(host.office.rotate(roles=roles)), root_message(host.office.rotate())]


def test_what_a_root_drops_is_told(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    dropping, _ = drop_and_restore(host)

    host.hear(dropping)

    nack, ack = host.sent[-2].nack, host.sent[-1].ack
    assert (nack.nonce, nack.code) == (b"", "KeyNotAuthorised")
    assert (list(nack.enforced), list(nack.ended)) == ([], ["org/acme"])
    assert ack.nonce == dropping.root.nonce
    assert host.counted("KeyNotAuthorised") == 1


def test_what_a_root_dropped_is_asked_for_again_where_nothing_newer_comes(host: HostSimulator) -> None:
    # The Hello of this connection claimed it, so that the server does not send it by itself.
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    host.hear(*drop_and_restore(host)).beat()
    assert host.standing().denial is Reason.NO_POLICY

    assert is_asked_for_again(host, PASSING_PAUSE_S)

    assert host.connect().versions == {"global": 1, "org/acme": 1}
    assert host.standing().source is PolicySource.LIVE


def test_what_a_root_dropped_and_a_newer_bundle_replaced_is_not_asked_for_again(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    host.hear(*drop_and_restore(host)).update(PERMIT, scope="org/acme")

    assert is_live(host)
    assert not is_asked_for_again(host, 10 * LASTING_PAUSE_S)


def test_a_root_that_cannot_be_kept_is_refused_and_asked_for_again(host: HostSimulator) -> None:
    (host.place / "roots").rename(host.place / "gone")
    update = root_message(host.office.rotate())

    host.hear(update)

    assert answers(host)[-1] == (update.root.nonce, "CacheWriteFailed")
    assert host.updater.root is not None
    assert host.updater.root.version == 2
    (host.place / "gone").rename(host.place / "roots")
    assert is_asked_for_again(host, DISK_PAUSE_S)
    assert host.connect().updater.root_version == 2
    assert is_live(host)


def test_too_long_a_chain_is_followed_further_by_a_connection_that_comes_soon(new_host: HostSimulator) -> None:
    for _ in range(MAX_ROTATIONS + 1):
        new_host.office.rotate()
    new_host.connect()
    assert new_host.nacks[:1] == ["RootChainTooLong"]
    assert new_host.updater.root_version == MAX_ROTATIONS + 1

    assert is_asked_for_again(new_host, PASSING_PAUSE_S)

    assert new_host.connect().updater.root_version == MAX_ROTATIONS + 2
