"""An org's own schema, from `akpolicy policy publish --schema` to decisions of a real sidecar."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from akpolicy.client import Principal, Resource
from akpolicy.errors import ClientError, InvalidRequest
from tests.integration.e2e.programs import DEADLINE_S
from tests.integration.e2e.world import ORG, World, decided_by, permit
from tests.simulators.schemas import DEPLOY, OWN, PORT_MAP, SMALLER, by_level
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        world.init()
        world.start_server()
        (world.directory / "acme.cedarschema").write_text(OWN)
        (world.directory / "smaller.cedarschema").write_text(SMALLER)
        yield world


def publish(world: World, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (world.directory / "p.cedar").write_text(text)
    return world.cli("policy", "publish", "p.cedar", *options)


def deploy(world: World) -> str:
    """Return what decides about an action that only the org's own schema has; empty if it is no request at all."""
    try:
        decision = world.client().authorize(
            principal=Principal(id="alice", org_id=ORG, teams=("red",), attributes={"level": 3}),
            action="Deploy",
            resource=Resource(id="box", attributes={"agent_type": "claude", "runtime": "python"}),
        )
    except InvalidRequest:
        return ""
    return decided_by(decision)


def wait_deploy(world: World, expected: str) -> None:
    def decided() -> bool:
        try:
            return deploy(world) == expected
        except ClientError:
            return False

    wait_until(decided, deadline=DEADLINE_S, what=f"a decision by `{expected}`")


def test_an_org_decides_by_its_own_schema_through_freeze_restart_and_back(world: World) -> None:
    assert publish(world, permit("all"), "--org", ORG).returncode == 0
    world.start_sidecar()
    world.wait_decided_by("all")
    assert deploy(world) == ""

    refused = publish(world, DEPLOY, "--org", ORG)
    assert (refused.returncode, "PolicyValidationError" in refused.stderr) == (1, True)
    assert publish(world, DEPLOY, "--org", ORG, "--schema", "acme.cedarschema").returncode == 0
    wait_deploy(world, "deploy")
    assert publish(world, by_level("level"), "--org", ORG, "--team", "red").returncode == 0
    wait_deploy(world, "deploy,level")
    assert world.cli("policy", "show", "--org", ORG, "--schema").stdout.strip() == OWN.strip()

    for options in (("--default-schema",), ("--schema", "smaller.cedarschema")):
        refused = publish(world, permit("all"), "--org", ORG, *options)
        assert refused.returncode == 1
        assert f"  org/{ORG}/team/red:2: SchemaConflict: policy `level`: " in refused.stderr

    assert world.cli("org", "freeze", ORG).returncode == 0
    wait_deploy(world, "akpolicy-freeze")
    assert world.cli("org", "unfreeze", ORG).returncode == 0
    wait_deploy(world, "deploy,level")

    assert world.server is not None
    world.server.kill()
    world.sidecars["host-1"].kill()
    world.start_sidecar()
    wait_deploy(world, "deploy,level")

    world.start_server()
    assert publish(world, permit("team"), "--org", ORG, "--team", "red").returncode == 0
    assert publish(world, permit("all"), "--org", ORG, "--default-schema").returncode == 0
    wait_deploy(world, "")
    assert world.wait_decided_by("all").bundles[0].scope == f"org/{ORG}"


def test_policies_of_everybody_are_refused_where_an_org_has_no_place_for_them(world: World) -> None:
    assert publish(world, permit("all"), "--org", ORG, "--schema", "smaller.cedarschema").returncode == 0
    refused = publish(world, PORT_MAP, "--scope", "global")
    assert refused.returncode == 1
    assert f"(by the schema of the org `{ORG}`)" in refused.stderr
    assert publish(world, permit("all"), "--scope", "global").returncode == 0


def test_a_schema_is_signed_away_from_the_server_by_who_knows_it(world: World) -> None:
    key = take_bundle_key(world)
    anchor = world.anchors[ORG]

    def signed(name: str, text: str, *options: str, signing: tuple[str, ...] = ()) -> str:
        """Have a bundle prepared, signed here and published; return what its signer was shown."""
        prepared = publish(world, text, "--org", ORG, *options, "--unsigned", "--out", f"{name}.json")
        assert prepared.returncode == 0, prepared.stderr
        done = world.cli("policy", "sign", f"{name}.json", "--key", key, "--yes", "--anchor", anchor, *signing)
        assert done.returncode == 0, done.stderr
        published = world.cli("policy", "publish", "--envelope", f"{name}.json")
        assert published.returncode == 0, published.stderr
        return done.stderr

    digest = hashlib.sha256(OWN.encode()).hexdigest()
    assert f"SHA-256 {digest}" in signed("first", DEPLOY, "--schema", "acme.cedarschema")
    world.start_sidecar()
    wait_deploy(world, "deploy")

    # Nobody signs a schema that is not named.
    kept = publish(world, DEPLOY, "--org", ORG, "--unsigned", "--out", "kept.json")
    assert (kept.returncode, "sign only one that you know" in kept.stderr) == (2, True)

    unknown = publish(world, by_level("level"), "--org", ORG, "--team", "red", "--unsigned", "--out", "team.json")
    assert unknown.returncode == 0
    refused = world.cli("policy", "sign", "team.json", "--key", key, "--yes")
    assert (refused.returncode, "PolicyValidationError" in refused.stderr) == (1, True)
    signed("red", by_level("level"), "--team", "red", signing=("--schema", "acme.cedarschema"))
    wait_deploy(world, "deploy,level")

    assert world.cli("org", "freeze", ORG, "--key", key).returncode == 0
    wait_deploy(world, "akpolicy-freeze")
    assert world.cli("org", "unfreeze", ORG, "--key", key, "--yes").returncode == 0
    wait_deploy(world, "deploy,level")
    (world.directory / "revision.json").write_text(world.cli("policy", "show", "--org", ORG, "--output", "json").stdout)
    assert "its policies can be enforced" in world.cli("inspect", "revision.json").stdout
    signed("last", DEPLOY, "--schema", "acme.cedarschema")


def take_bundle_key(world: World) -> str:
    """Take the key of the org's bundles away from the server; return its file."""
    shown = world.cli("root", "show", "--org", ORG, "--anchor", world.anchors[ORG], "--output", "json")
    roles = {entry["role"]: entry["keys"] for entry in json.loads(shown.stdout)["roles"]}
    [key_id] = roles[f"bundle:org/{ORG}"]
    file = world.server_dir / "data" / "keys" / f"{key_id}.pem"
    return str(file.rename(world.directory / "bundle.pem"))
