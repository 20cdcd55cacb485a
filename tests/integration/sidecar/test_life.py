"""A sidecar's life: first start, cold start without a server, crashes, shutdown."""

from __future__ import annotations

import os
import resource
import signal
import stat
from typing import TYPE_CHECKING

import pytest

from akpolicy.signing import PrivateKeySigner
from akpolicy.v1 import authorization_pb2 as pb
from tests.integration.sidecar.process import FORBID, PERMIT, Sidecar
from tests.simulators.org import delegation
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from tests.simulators.org import OrgSimulator
    from tests.simulators.policy_server import PolicyServerSimulator


def test_a_published_policy_decides_and_is_acknowledged(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    server.publish(PERMIT, scope="org/acme")
    sidecar.start()

    sidecar.wait_reason("PERMITTED")
    wait_until(lambda: sidecar.ask().source == pb.POLICY_SOURCE_LIVE)
    decision = sidecar.ask()

    assert decision.effect == pb.EFFECT_ALLOW
    assert (decision.fresh, decision.stalest_layer) == (True, "global")
    assert [(b.scope, b.version) for b in decision.bundles] == [("global", 1), ("org/acme", 1)]
    assert decision.deciding_layer == "org/acme"
    server.wait_enforced("org/acme", 1)


def test_before_anything_is_delivered_everything_is_denied(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.go_silent()
    sidecar.start()

    decision = sidecar.ask()

    assert (decision.effect, decision.reason) == (pb.EFFECT_DENY, pb.REASON_CODE_NO_POLICY)
    assert decision.policy_age_ms == -1
    assert sidecar.get("/healthz")[0] == 200
    status, body = sidecar.get("/readyz")
    assert status == 503
    assert '"reason": "no_policy"' in body


def test_a_new_version_replaces_the_old_one_on_the_open_stream(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start()
    sidecar.wait_reason("PERMITTED")

    server.publish(FORBID)

    assert sidecar.wait_reason("FORBIDDEN").bundles[0].version == 2


def test_a_rotation_and_a_rollback_are_followed_on_the_open_stream_and_survive(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.publish(PERMIT)
    earlier = server.current()
    sidecar.start().wait_reason("PERMITTED")
    server.publish(FORBID)
    sidecar.wait_reason("FORBIDDEN")

    server.offer_root(*(server.org.root_envelope(version=version) for version in (2, 3)))
    server.roll_back(earlier)
    assert sidecar.wait_reason("PERMITTED").bundles[0].version == 3
    sidecar.stop(signal.SIGKILL)
    server.stop()

    sidecar.start()
    assert sidecar.wait_reason("PERMITTED").bundles[0].version == 3
    assert sidecar.metric("akpolicy_sidecar_root_version") == 3


def test_a_revoked_key_denies_until_another_key_has_signed(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    org, fresh = server.org, PrivateKeySigner.generate()
    roles = {**org.root_document()["roles"], "bundle": [delegation("global", fresh)]}
    revoked = {org.platform_signer.public_key.key_id: int(org.clock.now())}

    server.offer_root(org.root_envelope(version=2, signers=[fresh], roles=roles, revoked=revoked))
    server.wait_nack("KeyRevoked")
    sidecar.wait_reason("NO_POLICY")

    server.publish(FORBID, signed_by=[fresh])
    sidecar.wait_reason("FORBIDDEN")


def test_without_heartbeats_policy_ages_although_the_stream_is_up(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.deliver_heartbeats(lifetime_s=3)
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    server.withhold_heartbeats()
    wait_until(lambda: sidecar.ask().source == pb.POLICY_SOURCE_CACHE)

    decision = sidecar.ask()
    assert (decision.reason, decision.fresh) == (pb.REASON_CODE_PERMITTED, False)
    assert decision.policy_age_ms >= 3000
    assert server.wait_nack("HeartbeatStale").nonce == b""
    assert sidecar.metric("akpolicy_sidecar_connected") == 1
    assert sidecar.metric("akpolicy_sidecar_fresh") == 0
    server.deliver_heartbeats()
    wait_until(lambda: sidecar.ask().source == pb.POLICY_SOURCE_LIVE)


def test_a_host_that_never_heard_a_heartbeat_denies(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.withhold_heartbeats()
    server.publish(PERMIT)
    sidecar.start()
    server.wait_enforced("global", 1)

    assert sidecar.ask().reason == pb.REASON_CODE_NO_POLICY
    assert sidecar.get("/readyz")[0] == 503
    server.deliver_heartbeats()
    sidecar.wait_reason("PERMITTED")


def test_a_cold_start_without_the_server_decides_from_the_cache(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    assert sidecar.stop() == 0
    server.stop()

    sidecar.start()
    decision = sidecar.ask()

    assert (decision.reason, decision.source) == (pb.REASON_CODE_PERMITTED, pb.POLICY_SOURCE_CACHE)
    assert decision.policy_age_ms >= 0


def test_fail_closed_denies_while_the_server_is_away_and_recovers(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    sidecar.enterprise["offline_mode"] = "fail_closed"
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    server.stop()
    sidecar.wait_reason("POLICY_STALE")
    server.start()

    assert sidecar.wait_reason("PERMITTED").mode == 1


def test_a_silent_server_is_left_and_found_again(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    server.go_silent()
    server.wait_for(lambda s: len(s.hellos) >= 2)
    server.speak()

    server.publish(FORBID)
    sidecar.wait_reason("FORBIDDEN")


def test_after_kill_9_the_same_policy_is_enforced(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    server.publish(FORBID, scope="org/acme")
    before = sidecar.start().wait_reason("FORBIDDEN")
    sidecar.stop(signal.SIGKILL)
    server.stop()

    sidecar.start()  # takes over the socket that the killed process left

    after = sidecar.ask()
    assert list(after.bundles) == list(before.bundles)
    assert after.reason == pb.REASON_CODE_FORBIDDEN


def test_kill_9_in_the_middle_of_updates_loses_nothing_and_rolls_nothing_back(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    acknowledged = 0
    for _ in range(3):
        for _ in range(5):
            server.publish(PERMIT)
        sidecar.stop(signal.SIGKILL)
        acknowledged = max([acknowledged, *(r.version for ack in server.acks for r in ack.enforced)])

        sidecar.start()

        assert "kept document cannot be used" not in sidecar.output()
        assert sidecar.ask().bundles[0].version >= acknowledged


def test_a_full_disk_keeps_what_was_enforced_and_refuses_the_update(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    sidecar.sidecar["audit_log"] = "off"
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    assert sidecar.process is not None

    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    server.publish(FORBID)
    server.wait_nack("CacheWriteFailed")

    decision = sidecar.ask()
    assert (decision.reason, decision.bundles[0].version) == (pb.REASON_CODE_PERMITTED, 1)
    assert sidecar.metric('akpolicy_sidecar_cache_errors_total{code="CacheWriteFailed"}') >= 1

    infinity = resource.RLIM_INFINITY
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (infinity, infinity))
    server.publish(FORBID)
    assert sidecar.wait_reason("FORBIDDEN").bundles[0].version == 3


def test_an_audit_log_that_cannot_grow_is_counted_and_shown_and_decisions_go_on(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    assert sidecar.process is not None

    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    assert sidecar.ask().effect == pb.EFFECT_ALLOW

    assert sidecar.metric("akpolicy_sidecar_audit_errors_total") == 1
    assert '"audit": "failing"' in sidecar.get("/readyz")[1]
    infinity = resource.RLIM_INFINITY
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (infinity, infinity))
    decision = sidecar.ask()
    assert sidecar.records()[-1]["decision_id"] == decision.decision_id
    assert '"audit": "ok"' in sidecar.get("/readyz")[1]


@pytest.mark.parametrize(
    ("damaged", "code"), [("blobs", "CacheCorrupt"), ("envelopes", "EnvelopeMalformed"), ("roots", "EnvelopeMalformed")]
)
def test_a_damaged_cache_denies_until_the_server_delivers_again(
    sidecar: Sidecar, server: PolicyServerSimulator, damaged: str, code: str
) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    sidecar.stop()
    server.stop()
    for path in (sidecar.state / damaged).iterdir():
        path.write_bytes(path.read_bytes()[:-1])

    sidecar.start()

    assert sidecar.ask().reason == pb.REASON_CODE_NO_POLICY
    assert sidecar.metric(f'akpolicy_sidecar_cache_errors_total{{code="{code}"}}') >= 1
    server.start()
    sidecar.wait_reason("PERMITTED")


def test_a_damaged_state_denies_until_the_server_delivers_again(
    sidecar: Sidecar, server: PolicyServerSimulator
) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    sidecar.stop()
    server.stop()
    (sidecar.state / "state.json").write_bytes(b"{")

    sidecar.start()

    assert sidecar.ask().reason == pb.REASON_CODE_NO_POLICY
    server.start()
    sidecar.wait_reason("PERMITTED")


def test_a_bundle_past_its_expiry_denies(sidecar: Sidecar, server: PolicyServerSimulator, org: OrgSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    def soon_expired_is_enforced() -> bool:
        # On a busy machine it may have expired when it arrives; then it is refused, and the next one is tried.
        refused = len(server.nacks)
        version = server.publish(PERMIT, expires_at=int(org.clock.now()) + 3).version
        server.wait_for(
            lambda s: len(s.nacks) > refused or any(r.version == version for ack in s.acks for r in ack.enforced)
        )
        return len(server.nacks) == refused

    wait_until(soon_expired_is_enforced)

    assert sidecar.wait_reason("BUNDLE_EXPIRED").effect == pb.EFFECT_DENY


def test_sigterm_ends_in_order(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    assert sidecar.stop(signal.SIGTERM) == 0

    assert not sidecar.socket.exists()
    assert not sidecar.ready_file.exists()
    assert "sidecar has stopped" in sidecar.output()
    server.wait_for(lambda s: s.open_streams == 0)


def test_sigint_ends_in_order(sidecar: Sidecar) -> None:
    sidecar.start()

    assert sidecar.stop(signal.SIGINT) == 0
    assert not sidecar.socket.exists()


def test_sighup_follows_a_log_rotation(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")
    assert sidecar.process is not None
    log = sidecar.state / "audit.jsonl"
    log.rename(sidecar.state / "audit.jsonl.1")

    sidecar.process.send_signal(signal.SIGHUP)
    wait_until(log.exists)
    decision = sidecar.ask()

    assert [record["decision_id"] for record in sidecar.records()] == [decision.decision_id]


def test_each_answer_has_its_audit_line(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    asked = {sidecar.ask().decision_id for _ in range(5)}

    recorded = [record["decision_id"] for record in sidecar.records()]
    assert asked <= set(recorded)
    assert len(recorded) == len(set(recorded))
    assert stat.S_IMODE((sidecar.state / "audit.jsonl").stat().st_mode) == 0o600


def test_refused_credentials_are_logged_once_and_policy_stays(sidecar: Sidecar, server: PolicyServerSimulator) -> None:
    server.publish(PERMIT)
    sidecar.start().wait_reason("PERMITTED")

    server.refuse()
    wait_until(lambda: sidecar.metric("akpolicy_sidecar_reconnects_total") >= 3)

    assert sidecar.ask().reason == pb.REASON_CODE_PERMITTED
    assert sidecar.output().count("refuses the API key") == 1
    server.accept()
    wait_until(lambda: sidecar.ask().source == pb.POLICY_SOURCE_LIVE)


def test_the_ready_file_says_where_everything_is(sidecar: Sidecar) -> None:
    sidecar.start()
    assert sidecar.process is not None

    ready = sidecar.ready()

    assert ready["socket"] == str(sidecar.socket)
    assert ready["pid"] == sidecar.process.pid
    assert ready["tcp"] is None
    assert ready["metrics"].startswith("127.0.0.1:")
    os.kill(ready["pid"], 0)
