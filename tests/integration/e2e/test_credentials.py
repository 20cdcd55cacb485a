"""API keys that do not open what they are used for. What a host enforces does not depend on its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.e2e.world import ORG, World, decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = "globex"
NO_KEY = "akp_0123456789abcdef_" + "A" * 43


@pytest.fixture(scope="module")
def orgs() -> Iterator[World]:
    """Two orgs, each with a policy."""
    with World() as world:
        world.init(ORG, OTHER)
        world.start_server()
        world.publish(permit("ours"))
        world.publish(permit("theirs"), OTHER)
        (world.directory / "new.cedar").write_text(permit("new"), encoding="utf-8")
        yield world


def key(world: World, org: str, role: str) -> str:
    done = world.cli("apikey", "create", "--org", org, "--role", role, "--output", "text")
    assert done.returncode == 0, done.stderr
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("secret"))


@pytest.mark.parametrize(
    ("org", "who", "said"),
    [
        (ORG, "nobody", "the server refused (UNAUTHENTICATED)"),
        (ORG, "their publisher", "the server refused (PERMISSION_DENIED)"),
        (ORG, "our host", "the server refused (PERMISSION_DENIED)"),
        ("nowhere", "the platform", "the server refused (NOT_FOUND)"),
        ("nowhere", "our publisher", "the server refused (PERMISSION_DENIED)"),
    ],
)
def test_a_key_publishes_nothing_beyond_its_reach(orgs: World, org: str, who: str, said: str) -> None:
    secrets = {
        "nobody": NO_KEY,
        "the platform": orgs.admin_key,
        "our host": orgs.host_key().secret,
        "our publisher": key(orgs, ORG, "publisher"),
        "their publisher": key(orgs, OTHER, "publisher"),
    }
    done = orgs.cli("policy", "publish", "new.cedar", "--org", org, env={"AKPOLICY_API_KEY": secrets[who]})
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: {said}" in done.stderr
    assert not any(secret in done.stderr for secret in secrets.values()), "a secret is shown"
    assert [revision.version for revision in orgs.history()] == [1]


@pytest.mark.parametrize(("whose", "status"), [("nobody", "UNAUTHENTICATED"), ("their host", "PERMISSION_DENIED")])
def test_a_sidecar_with_a_wrong_key_gets_nothing_and_says_why(orgs: World, whose: str, status: str) -> None:
    secret = NO_KEY if whose == "nobody" else orgs.host_key("their-host", OTHER).secret
    host = whose.replace(" ", "-") + "-key"
    sidecar = orgs.start_sidecar(host, secret=secret)
    said = sidecar.wait_for_record("policy server refuses the API key")
    assert (said["status"], said["level"]) == (status, "error")
    assert secret not in sidecar.log.read_text(encoding="utf-8")
    assert decided_by(orgs.ask(host)) == "NO_POLICY"
    status_code, ready = sidecar.readiness()
    assert (status_code, ready["reason"]) == (503, "no_policy")
    sidecar.stop()


def test_a_host_whose_key_is_revoked_goes_on_with_what_it_enforces_and_hears_of_nothing_new(orgs: World) -> None:
    host = "revoked-host"
    sidecar = orgs.start_sidecar(host)
    orgs.wait_for_decision(lambda d: d.source.value == "live", host)
    enforced = orgs.ask(host).bundles
    assert sidecar.metric("akpolicy_sidecar_connected") == 1

    done = orgs.cli("apikey", "revoke", orgs.host_key(host).key_id)
    assert done.returncode == 0, done.stderr
    said = sidecar.wait_for_record("policy server refuses the API key")
    assert said["status"] == "UNAUTHENTICATED"
    wait_until(lambda: sidecar.metric("akpolicy_sidecar_connected") == 0)

    orgs.publish(permit("after-the-revocation"), OTHER)
    decision = orgs.ask(host)
    assert (decision.allowed, decision.bundles, decision.source.value) == (True, enforced, "cache")
    # It is tried again, which is logged once only.
    wait_until(lambda: sidecar.metric("akpolicy_sidecar_reconnects_total") >= 3, what="more attempts")
    assert sum("refuses the API key" in record["event"] for record in sidecar.records()) == 1
    sidecar.stop()


def test_another_orgs_question_is_denied_by_every_policy(orgs: World) -> None:
    sidecar = orgs.start_sidecar("foreign")
    orgs.wait_decided_by("ours", "foreign")
    decision = orgs.ask("foreign", org=OTHER)
    assert (decision.allowed, decided_by(decision)) == (False, "FOREIGN_ORG")
    sidecar.stop()
