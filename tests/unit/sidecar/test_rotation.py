"""Keys are rotated under a host that decides: nothing is denied, and nothing outlives the rotation either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.decision import Reason
from akpolicy.signing import PrivateKeySigner
from akpolicy.wire import envelope_from_proto
from akpolicy_sidecar.root_updates import ROTATION_GRACE_S
from tests.simulators.office import keep_alive, root_message
from tests.simulators.org import delegation, role

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator
    from tests.simulators.office import Held

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
SCOPE = "org/acme"


@pytest.fixture
def rotating(host: HostSimulator) -> HostSimulator:
    """A host that decides by `global` and the org's own scope."""
    return host.update(PERMIT).update(PERMIT, scope=SCOPE)


def rotate(host: HostSimulator, key: PrivateKeySigner, **more: Any) -> Any:
    """Return the root in which `key` signs the org's bundles in place of the key before."""
    org = host.org
    roles = {
        **org.root_document()["roles"],
        "bundle": [delegation("global", org.platform_signer), delegation(SCOPE, key)],
        **more.pop("roles", {}),
    }
    return root_message(host.office.rotate(signers=[key], roles=roles, **more))


def signed_again(host: HostSimulator, key: PrivateKeySigner) -> Held:
    return host.office.publish(PERMIT, scope=SCOPE, signed_by=[key])


def test_a_rotation_leaves_rollbacks_and_deletions_where_they_are(rotating: HostSimulator) -> None:
    first = rotating.office.current["global"]
    rotating.update(PERMIT, min_version=1)
    rotating.take(rotating.office.roll_back(first))
    rotating.take(rotating.office.delete(SCOPE))

    rotating.hear(root_message(rotating.office.rotate())).beat()

    assert rotating.nacks == []
    assert rotating.versions == {"global": 3}
    assert [(r.scope, r.version) for r in rotating.updater.holdings.enforced] == [("global", 3), (SCOPE, 2)]
    assert rotating.restart().versions == {"global": 3}


def rolled_back(host: HostSimulator) -> Held:
    """Let the host enforce a rollback of the org's scope; return the bundle that it restores."""
    original = host.office.current[SCOPE]
    host.update(PERMIT, scope=SCOPE, min_version=1)
    host.take(host.office.roll_back(original))
    return original


def test_a_rollback_decides_until_the_new_key_has_signed_it(rotating: HostSimulator) -> None:
    original, key, org = rolled_back(rotating), PrivateKeySigner.generate(), rotating.org
    rollback = [delegation("global", org.rollback_signer), delegation(SCOPE, key)]
    roles = {**org.root_document()["roles"], "rollback": rollback}

    rotating.hear(root_message(rotating.office.rotate(signers=[key], roles=roles)))

    assert (rotating.standing().denial, rotating.nacks) == (None, [])
    rotating.take(rotating.office.roll_back(original, signed_by=[key]))
    rotating.beat()
    assert (rotating.versions[SCOPE], rotating.nacks) == (4, [])


def test_a_rollback_that_nobody_may_sign_any_more_is_dropped_at_once(rotating: HostSimulator) -> None:
    rolled_back(rotating)
    roles = {"rollback": [delegation("global", rotating.org.rollback_signer)]}

    rotating.hear(rotate(rotating, rotating.org.bundle_signer, roles=roles))

    assert rotating.nacks == ["KeyNotAuthorised"]
    assert rotating.standing().denial is Reason.NO_POLICY


def test_a_bundle_goes_on_where_nobody_may_roll_back(rotating: HostSimulator) -> None:
    rotating.hear(rotate(rotating, PrivateKeySigner.generate(), roles={"rollback": []}))

    assert (rotating.standing().denial, rotating.nacks) == (None, [])


def test_a_rollback_by_an_old_key_to_what_a_revoked_key_signed_is_dropped_at_once(rotating: HostSimulator) -> None:
    rolled_back(rotating)
    key, org = PrivateKeySigner.generate(), rotating.org
    roles = {
        **org.root_document()["roles"],
        "bundle": [delegation("global", org.platform_signer), delegation(SCOPE, key)],
        "rollback": [delegation("global", org.rollback_signer), delegation(SCOPE, key)],
    }
    revoked = {org.bundle_signer.public_key.key_id: int(rotating.clock.now())}

    rotating.hear(root_message(rotating.office.rotate(signers=[key], roles=roles, revoked=revoked)))

    assert rotating.standing().denial is Reason.NO_POLICY


def test_a_rollback_to_what_a_revoked_key_signed_is_dropped_at_once(rotating: HostSimulator) -> None:
    rolled_back(rotating)
    leaked = rotating.org.bundle_signer.public_key.key_id

    rotating.hear(rotate(rotating, PrivateKeySigner.generate(), revoked={leaked: int(rotating.clock.now())}))

    assert rotating.nacks == ["KeyRevoked"]
    assert rotating.standing().denial is Reason.NO_POLICY


def test_policy_decides_until_what_the_new_key_signed_has_come(rotating: HostSimulator) -> None:
    key = PrivateKeySigner.generate()

    rotating.hear(rotate(rotating, key))

    assert rotating.standing().denial is None
    assert rotating.decide() is not None
    assert rotating.versions == {"global": 1, SCOPE: 1}
    assert [revision.scope for revision in rotating.updater.holdings.enforced] == ["global"], "it is not claimed"
    signed_again(rotating, key)
    rotating.hear(*rotating.office.bundle(SCOPE)).beat()
    assert rotating.versions == {"global": 1, SCOPE: 2}
    assert rotating.nacks == []
    rotating.clock.advance(10 * ROTATION_GRACE_S)
    assert rotating.standing().denial is None


@pytest.mark.parametrize("what", ["heartbeat", "keep-alive"])
def test_what_has_no_successor_when_nothing_more_comes_is_dropped_and_told(rotating: HostSimulator, what: str) -> None:
    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))
    rotating.clock.advance(1)

    rotating.hear(rotating.office.heartbeat() if what == "heartbeat" else keep_alive())

    assert rotating.standing().denial is Reason.NO_POLICY
    assert rotating.snapshots.current.missing == (SCOPE,)
    assert rotating.nacks == ["KeyNotAuthorised"]
    assert rotating.counted("KeyNotAuthorised") == 1


def test_while_nothing_comes_it_decides_for_a_moment_and_no_longer(rotating: HostSimulator) -> None:
    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))

    rotating.clock.advance(ROTATION_GRACE_S - 0.001)
    assert rotating.standing().denial is None
    rotating.clock.advance(0.001)
    assert rotating.standing().denial is Reason.NO_POLICY
    assert SCOPE in rotating.standing().message
    assert rotating.decide() is None


def test_a_second_root_does_not_let_it_decide_for_longer(rotating: HostSimulator) -> None:
    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))
    rotating.clock.advance(ROTATION_GRACE_S - 1)

    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))

    rotating.clock.advance(1)
    assert rotating.standing().denial is Reason.NO_POLICY


def test_a_second_root_that_revokes_the_key_drops_it_at_once(rotating: HostSimulator) -> None:
    leaked = rotating.org.bundle_signer.public_key.key_id
    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))

    rotating.hear(rotate(rotating, PrivateKeySigner.generate(), revoked={leaked: int(rotating.clock.now())}))

    assert rotating.standing().denial is Reason.NO_POLICY


def test_a_second_root_that_names_the_key_again_keeps_it(rotating: HostSimulator) -> None:
    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))

    rotating.hear(root_message(rotating.office.rotate())).beat()

    rotating.clock.advance(ROTATION_GRACE_S)
    assert rotating.standing().denial is None
    assert [revision.scope for revision in rotating.updater.holdings.enforced] == ["global", SCOPE]


def test_a_threshold_that_is_raised_is_a_rotation_too(rotating: HostSimulator) -> None:
    second, org = PrivateKeySigner.generate(), rotating.org
    both = [delegation("global", org.platform_signer), delegation(SCOPE, org.bundle_signer, second, threshold=2)]

    rotating.hear(rotate(rotating, second, roles={"bundle": both}))

    assert rotating.standing().denial is None
    rotating.office.publish(PERMIT, scope=SCOPE, signed_by=[org.bundle_signer, second])
    rotating.hear(*rotating.office.bundle(SCOPE)).beat()
    assert (rotating.versions[SCOPE], rotating.nacks) == (2, [])


def test_the_first_thing_that_comes_after_a_start_may_be_a_rotation(rotating: HostSimulator) -> None:
    again = rotating.restart()
    again.updater.apply_root(envelope_from_proto(rotate(again, PrivateKeySigner.generate()).root.envelope))

    assert again.versions == {"global": 1, SCOPE: 1}
    assert [(trouble.subject, trouble.error.code) for trouble in again.updater.settle()] == [
        (SCOPE, "KeyNotAuthorised")
    ]


def test_a_restart_in_between_believes_the_new_root_alone(rotating: HostSimulator) -> None:
    rotating.hear(rotate(rotating, PrivateKeySigner.generate()))

    again = rotating.restart()

    assert again.not_loaded == [(SCOPE, "KeyNotAuthorised")]
    assert again.standing().denial is Reason.NO_POLICY


def test_a_new_heartbeat_key_takes_over_without_a_denial(rotating: HostSimulator) -> None:
    key = PrivateKeySigner.generate()
    roles = {"heartbeat": role(key), "bundle": rotating.org.root_document()["roles"]["bundle"]}

    rotating.hear(rotate(rotating, key, roles=roles))

    assert rotating.standing().denial is None
    rotating.clock.advance(1)
    assert rotating.hear(rotating.office.heartbeat(signed_by=[key])).nacks == []
    assert rotating.standing().fresh


def test_the_same_content_under_another_key_is_not_parsed_again(rotating: HostSimulator) -> None:
    before = rotating.snapshots.current.layer(SCOPE)
    leaked, key = rotating.org.bundle_signer.public_key.key_id, PrivateKeySigner.generate()
    rotating.hear(rotate(rotating, key, revoked={leaked: int(rotating.clock.now())}))
    signed_again(rotating, key)

    rotating.hear(*rotating.office.bundle(SCOPE)).beat()

    after = rotating.snapshots.current.layer(SCOPE)
    assert before is not None
    assert after is not None
    assert after.compiled is before.compiled
