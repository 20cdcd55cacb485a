"""Keys are rotated and revoked, and an org recovers by an epoch, under running programs that go on deciding."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.client import Decision, PolicyClient
from tests.integration.e2e.repeating import Repeating
from tests.integration.e2e.world import ASK_TIMEOUT_S, HOST, ORG, World, ask, decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPE = f"org/{ORG}"


@pytest.fixture
def asking(enforcing: World) -> Iterator[Repeating[Decision]]:
    """Ask all the time, on a connection of its own."""
    with (
        PolicyClient(enforcing.directory / f"{HOST}.sock", timeout=ASK_TIMEOUT_S) as client,
        Repeating(lambda: ask(client)) as repeating,
    ):
        repeating.more()
        yield repeating


def run(world: World, *arguments: str) -> dict[str, Any]:
    """Run `akpolicy` and return what it says as JSON."""
    done = world.cli(*arguments, "--output", "json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def keys_of(world: World, role: str) -> list[str]:
    """Return the ids of a role's keys in the newest root."""
    root = run(world, "root", "show", "--org", ORG)
    found: list[str] = next(entry["keys"] for entry in root["roles"] if entry["role"] == role)
    return found


def key_file(world: World, key_id: str) -> str:
    """Return the file in which the server keeps a key."""
    return f"server/data/keys/{key_id}.pem"


def wait_for_root(world: World, version: int) -> None:
    """Wait until the sidecar trusts this root."""
    sidecar = world.sidecars[HOST]
    wait_until(lambda: sidecar.metric("akpolicy_sidecar_root_version") == version, what=f"root {version}")


def propose(world: World, proposal: str, *changes: str) -> None:
    """Propose the next root with these changes."""
    run(world, "root", "propose", "--org", ORG, "--anchor", world.anchors[ORG], *changes, "--out", proposal)


def publish_root(world: World, proposal: str, *keys: str) -> dict[str, Any]:
    """Sign a proposed root with these key files, and publish it."""
    for key in keys:
        run(world, "root", "sign", proposal, "--key", key, "--yes")
    return run(world, "root", "publish", proposal)


@pytest.mark.slow
def test_every_key_of_an_org_is_rotated_without_one_refused_decision(
    enforcing: World, asking: Repeating[Decision]
) -> None:
    old = key_file(enforcing, keys_of(enforcing, "root")[0])
    run(enforcing, *["root", "rotate", "--org", "acme", "--new-key-file", "root.pem", "--key"], old)
    wait_for_root(enforcing, 2)
    version = 2
    for role in ("heartbeat", f"rollback:{SCOPE}", f"bundle:{SCOPE}"):
        before, version = keys_of(enforcing, role), version + 1
        propose(enforcing, "next.json", "--new-online-key", role, "--replace")
        publish_root(enforcing, "next.json", "root.pem")
        (enforcing.directory / "next.json").unlink()
        wait_for_root(enforcing, version)
        assert keys_of(enforcing, role) != before
        asking.more()
    # The new bundle key has signed again what the old one had.
    enforcing.wait_for_decision(lambda d: d.bundles[0].version == 2 and d.source.value == "live" and d.fresh)
    asking.more()

    assert {decided_by(decision) for decision in asking.results} == {"first"}
    asking.end()
    # Nothing of this needed a change on the host: a restart believes the same chain from the first anchor on.
    enforcing.sidecars[HOST].kill()
    (enforcing.directory / old).unlink()
    enforcing.start_sidecar()
    assert (decided_by(enforcing.ask()), enforcing.ask().bundles[0].version) == ("first", 2)
    wait_for_root(enforcing, version)


@pytest.mark.slow
def test_a_revoked_bundle_key_decides_nothing_any_more_and_its_successor_takes_over(
    enforcing: World, asking: Repeating[Decision]
) -> None:
    root_key, bundle_key = keys_of(enforcing, "root")[0], keys_of(enforcing, f"bundle:{SCOPE}")[0]
    old = enforcing.ask().bundles

    run(enforcing, "root", "revoke", "--org", ORG, bundle_key, "--key", key_file(enforcing, root_key), "--replace")
    enforcing.wait_for_decision(lambda d: d.allowed and d.bundles != old and d.source.value == "live")
    asking.more()

    results = list(asking.results)
    assert {decided_by(decision) for decision in results} <= {"first", "NO_POLICY"}
    last_old = max(number for number, decision in enumerate(results) if decision.bundles == old)
    first_new = min(number for number, decision in enumerate(results) if decision.allowed and decision.bundles != old)
    assert last_old < first_new
    assert decided_by(results[-1]) == "first"
    assert enforcing.state()[SCOPE]["version"] == 2


@pytest.mark.slow
def test_a_server_that_lost_its_newest_versions_recovers_by_an_epoch(
    enforcing: World, asking: Repeating[Decision]
) -> None:
    assert enforcing.server is not None
    data, backup = enforcing.directory / "server" / "data", enforcing.directory / "backup"
    enforcing.server.stop()
    shutil.copytree(data, backup)
    enforcing.start_server()
    for number in (2, 3):
        enforcing.publish(permit(f"lost-{number}"))
    before = enforcing.wait_decided_by("lost-3")
    enforcing.server.stop()
    shutil.rmtree(data)
    backup.rename(data)
    enforcing.start_server()

    sidecar = enforcing.sidecars[HOST]
    sidecar.wait_for_record("update refused", code="RollbackDetected", subject=SCOPE)
    sidecar.wait_for_record("update refused", code="HeartbeatRollback")
    kept = enforcing.ask()
    assert (decided_by(kept), kept.bundles, kept.source.value) == ("lost-3", before.bundles, "cache")

    root_key = key_file(enforcing, keys_of(enforcing, "root")[0])
    propose(enforcing, "epoch.json", "--new-epoch")
    publish_root(enforcing, "epoch.json", root_key)

    recovered = enforcing.wait_for_decision(lambda d: d.source.value == "live" and d.fresh)
    assert (decided_by(recovered), recovered.bundles[0].epoch, recovered.bundles[0].version) == ("first", 2, 1)
    enforcing.publish(permit("after"))
    assert enforcing.wait_decided_by("after").bundles[0].version == 2
    asking.more()
    # A new epoch takes nothing away: until its first bundle is here, the old one decides.
    assert {decided_by(decision) for decision in asking.results} <= {"first", "lost-2", "lost-3", "after"}
