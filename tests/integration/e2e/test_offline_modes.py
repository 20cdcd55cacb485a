"""What a host does while the server is away, by its own mode and the floor that the operator signed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e.world import ORG, decided_by, permit

if TYPE_CHECKING:
    from tests.integration.e2e.world import World

pytestmark = pytest.mark.slow

FORBID_BOX = (
    '@id("no-box")\nforbid (principal, action, resource is AgentKernel::Sandbox) when { resource.name == "box" };\n'
)


def begin(world: World, mode: str, *publish_options: str, policies: str = "") -> None:
    """Have a host of that mode enforce policies that were published with these options; then kill the server."""
    world.init()
    server = world.start_server()
    (world.directory / "p.cedar").write_text(policies or permit("first"), encoding="utf-8")
    done = world.cli("policy", "publish", "p.cedar", "--org", ORG, *publish_options)
    assert done.returncode == 0, done.stderr
    tables = world.sidecar_tables()
    tables["enterprise"]["offline_mode"] = mode
    world.start_sidecar(tables=tables)
    world.wait_for_decision(lambda d: d.source.value == "live", what="a live stream")
    server.kill()


def test_fail_closed_denies_while_the_server_is_away_and_allows_when_it_is_back(world: World) -> None:
    begin(world, "fail_closed")
    denied = world.wait_decided_by("POLICY_STALE")
    assert (denied.allowed, denied.mode.value, denied.source.value) == (False, "fail_closed", "cache")
    assert "the policy server is away" in denied.message
    assert world.sidecars["host-1"].readiness()[0] == 503

    world.start_server()
    allowed = world.wait_decided_by("first")
    assert (allowed.mode.value, allowed.source.value) == ("fail_closed", "live")
    assert world.sidecars["host-1"].readiness()[0] == 200


def test_a_signed_fail_closed_holds_on_a_host_that_configures_a_more_lenient_mode(world: World) -> None:
    begin(world, "cached_indefinite", "--offline-mode", "fail_closed")
    assert world.wait_decided_by("POLICY_STALE").mode.value == "fail_closed"


@pytest.mark.parametrize("mode", ["cached_with_expiry", "cached_indefinite"])
def test_policy_is_used_from_cache_until_the_signed_age_and_no_longer(world: World, mode: str) -> None:
    begin(world, mode, "--offline-max-age", "3s")
    stale = world.wait_decided_by("POLICY_STALE")
    assert stale.mode.value == "cached_with_expiry"
    lines = (world.state_dir() / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    cached = [record for record in map(json.loads, lines) if record["source"] == "cache"]
    # The age is rounded down to milliseconds.
    assert [r["decision"] for r in cached] == ["Deny" if r["policy_age_ms"] >= 3000 else "Permit" for r in cached]


def test_the_default_policy_decides_only_where_the_bundle_permits_it(world: World) -> None:
    begin(world, "default_policy", "--offline-max-age", "2s")
    stale = world.wait_decided_by("POLICY_STALE")
    assert (stale.mode.value, stale.source.value) == ("cached_with_expiry", "cache")


def test_where_it_is_permitted_the_default_policy_decides_with_the_last_forbids(world: World) -> None:
    options = ("--offline-mode", "default_policy", "--offline-max-age", "2s")
    begin(world, "default_policy", *options, policies=permit("first") + FORBID_BOX)
    decision = world.wait_for_decision(lambda d: d.source.value == "default", what="a decision by the default policy")
    assert (decided_by(decision), decision.mode.value) == ("no-box", "default_policy")
