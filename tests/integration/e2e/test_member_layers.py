"""Layers of teams and users, from `akpolicy policy publish` to decisions of real sidecars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.client import Principal, Resource
from akpolicy.errors import ClientError
from tests.integration.e2e.programs import DEADLINE_S
from tests.integration.e2e.world import ORG, World, decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.client import Decision

FORBID = '@id("not-here")\nforbid (principal, action == AgentKernel::Action::"Create", resource);\n'
TEAM, USER = f"org/{ORG}/team/red", f"org/{ORG}/user/bob%2540acme.com"


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.init()
        world.start_server()
        world.publish(permit("everybody"))
        world.start_sidecar()
        world.wait_decided_by("everybody")
        yield world


def ask(world: World, subject: str, *teams: str) -> Decision:
    return world.client().authorize(
        principal=Principal(id=subject, org_id=ORG, roles=("developer",), teams=teams),
        action="Create",
        resource=Resource(id="box", attributes={"agent_type": "claude", "runtime": "python"}),
    )


def deciders(world: World) -> list[str]:
    """Return what decides for a member of the team, for a user with a layer, and for anybody else."""
    return [decided_by(ask(world, *who)) for who in (("carol", "red"), ("bob@acme.com",), ("dave",))]


def wait_decided(world: World, *expected: str) -> None:
    last: list[str] = []

    def fulfilled() -> bool:
        try:
            last[:] = deciders(world)
        except ClientError:
            return False
        return last == list(expected)

    try:
        wait_until(fulfilled, deadline=DEADLINE_S, what=f"decisions by {expected}")
    except AssertionError as error:
        error.add_note(f"the last decisions were by {last}")
        raise


def publish(world: World, text: str, *options: str) -> str:
    (world.directory / "p.cedar").write_text(text)
    done = world.cli("policy", "publish", "p.cedar", "--org", ORG, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_layers_of_members_reach_them_and_nobody_else_and_a_freeze_holds_for_all(world: World) -> None:
    assert publish(world, FORBID, "--team", "red").startswith(f"published {TEAM} version 1\n")
    wait_decided(world, "not-here", "everybody", "everybody")
    assert publish(world, FORBID, "--user", "bob@acme.com").startswith(f"published {USER} version 1\n")
    wait_decided(world, "not-here", "not-here", "everybody")

    said = publish(world, permit("everybody") + permit("team"), "--team", "red", "--dry-run")
    assert said.endswith(f"\nreplaces  org/{ORG}/everybody\n")
    publish(world, permit("team"), "--team", "red")
    wait_decided(world, "everybody,team", "not-here", "everybody")
    decision = ask(world, "carol", "red")
    assert (decision.deciding_layer, decision.source.name) == (TEAM, "LIVE")
    assert [bundle.scope for bundle in decision.bundles] == [f"org/{ORG}", TEAM]

    assert world.cli("policy", "rollback", "--org", ORG, "--team", "red").returncode == 0
    wait_decided(world, "not-here", "not-here", "everybody")
    assert world.cli("org", "freeze", ORG).returncode == 0
    publish(world, permit("akpolicy-freeze"), "--team", "red")
    wait_decided(world, "akpolicy-freeze", "akpolicy-freeze,not-here", "akpolicy-freeze")
    assert {ask(world, "carol", "red").reason.name, ask(world, "dave").reason.name} == {"FORBIDDEN"}
    assert world.cli("org", "unfreeze", ORG).returncode == 0
    wait_decided(world, "everybody,akpolicy-freeze", "not-here", "everybody")


def test_layers_of_members_are_enforced_from_the_cache_without_a_server(world: World) -> None:
    publish(world, FORBID, "--team", "red")
    wait_decided(world, "not-here", "everybody", "everybody")
    assert world.server is not None
    world.server.kill()
    world.sidecars["host-1"].kill()

    world.start_sidecar()

    wait_decided(world, "not-here", "everybody", "everybody")
    assert set(world.state()) == {f"org/{ORG}", TEAM}
