"""Programs that start in any order find each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.e2e import programs
from tests.integration.e2e.world import decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from tests.integration.e2e.world import World


def test_a_sidecar_that_was_there_before_the_server_and_before_any_policy_enforces_both_when_they_come(
    world: World,
) -> None:
    world.init()
    # A host key needs a server; this one is gone again before the sidecar starts.
    server = world.start_server()
    world.host_key()
    server.stop()

    sidecar = world.start_sidecar()
    denied = world.ask()
    assert (decided_by(denied), denied.source.value, denied.bundles) == ("NO_POLICY", "none", ())
    sidecar.wait_for_record("no connection to the policy server", status="UNAVAILABLE")

    world.start_server()
    sidecar.wait_for_record("policy server reached")
    assert sidecar.metric("akpolicy_sidecar_connected") == 1
    assert decided_by(world.ask()) == "NO_POLICY"
    status, ready = sidecar.readiness()
    assert (status, ready["reason"]) == (503, "no_policy")

    world.publish(permit("first"))
    decision = world.wait_decided_by("first")
    assert (decision.source.value, decision.bundles[0].version) == ("live", 1)
    wait_until(lambda: sidecar.readiness()[0] == 200)


def test_a_socket_where_no_socket_can_be_is_said(world: World) -> None:
    world.anchors["acme"] = "ed25519:gtQ0g3qD7Ty1-8xC4u3dG2uWtiVfGVnlGM7JNtWqEDQ="
    tables = world.sidecar_tables()
    # proc(5) takes no new files, not even from root, whom permissions do not stop.
    tables["sidecar"]["socket"] = "/proc/sidecar.sock"
    done = world.run_sidecar(tables)
    assert done.returncode == 1
    assert "error: cannot create the socket `/proc/sidecar.sock`; check that its directory is writable" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_whose_metrics_port_is_in_use_says_so(world: World) -> None:
    world.init()
    server = world.start_server()
    config = programs.write_toml(
        world.directory / "server" / "second.toml",
        {"server": {"data_dir": "data", "listen": "127.0.0.1:0", "metrics_listen": server.ready["metrics"]}},
    )
    done = programs.run(["akpolicy-server", "--config", config])
    assert done.returncode == 1
    assert f"error: `{server.ready['metrics']}` is in use" in done.stderr
    assert "Traceback" not in done.stderr
