"""A disk without room under a running sidecar, made by a limit on the size of its files (setrlimit(2))."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from tests.integration.e2e.world import decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from tests.integration.e2e.world import World

NO_LIMIT = resource.RLIM_INFINITY


def test_a_full_disk_keeps_what_is_enforced_and_the_update_comes_once_there_is_room(enforcing: World) -> None:
    sidecar = enforcing.sidecars["host-1"]
    assert enforcing.server is not None
    state = enforcing.state()
    audited = (enforcing.state_dir() / "audit.jsonl").read_bytes()

    resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE, (1, NO_LIMIT))
    enforcing.publish(permit("second"))
    server = enforcing.server
    wait_until(lambda: server.metric("akpolicy_server_nacks_total", code="CacheWriteFailed") >= 1, what="the refusal")
    decision = enforcing.ask()
    assert (decided_by(decision), decision.bundles[0].version) == ("first", 1)
    assert sidecar.metric("akpolicy_sidecar_cache_errors_total", code="CacheWriteFailed") >= 1
    assert sidecar.metric("akpolicy_sidecar_audit_errors_total") >= 1
    status, ready = sidecar.readiness()
    assert (status, ready["audit"]) == (200, "failing")
    assert enforcing.state() == state
    assert (enforcing.state_dir() / "audit.jsonl").read_bytes() == audited
    assert not list(enforcing.state_dir().rglob(".*")), "a temporary file is left"

    resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))
    decision = enforcing.wait_decided_by("second")
    assert decision.bundles[0].version == 2
    assert sidecar.readiness()[1]["audit"] == "ok"
    assert decision.decision_id in (enforcing.state_dir() / "audit.jsonl").read_text(encoding="utf-8")
    sidecar.kill()
    enforcing.start_sidecar()
    assert enforcing.ask().bundles[0].version == 2
