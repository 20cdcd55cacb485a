"""Heartbeats over real connections: what they say, how often they come, and what happens without them."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import grpc

from akpolicy.signing import load_key_file
from akpolicy.v1 import distribution_pb2 as dist
from akpolicy_server.settings import DATABASE_FILE
from akpolicy_server.store.engine import Database
from akpolicy_server.store.online_keys import KeyRole, newest_key
from akpolicy_server.vault import Vault
from tests.integration.server.conftest import ANY_PORT, DEADLINE_S, live_server, policy
from tests.integration.server.judged import judged, next_root, refusals, root_fields
from tests.integration.server.test_operations import _value as metric
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.integration.server.conftest import LiveServer, Stream

ACME = "org/acme"


def test_a_host_gets_a_heartbeat_that_answers_it_and_names_all_that_it_has(server: LiveServer) -> None:
    server.admin.publish(ACME, policy("own"))
    server.admin.publish("global", policy("everyone"))
    host = judged(server).follow()
    assert host.is_content
    assert host.versions() == {"global": (1, 1), ACME: (1, 1)}
    server.admin.publish(ACME, policy("other"))
    host.follow_until(lambda: host.versions()[ACME] == (1, 2))
    assert host.is_content
    assert [heartbeat.document.seq for heartbeat in host.heartbeats] == [3, 4]


def test_heartbeats_go_on_at_a_third_of_their_life_without_the_index_again(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.1, heartbeat_lifetime_seconds=3) as server:
        server.admin.publish(ACME, policy("p"))
        hosts = [judged(server, f"h{number}").follow() for number in range(2)]
        for host in hosts:
            host.follow_until(lambda host=host: len(host.heartbeats) >= 4)
            assert host.indexes == 1
            assert len({heartbeat.document.seq for heartbeat in host.heartbeats}) == 1
            assert all(h.document.expires_at - h.document.issued_at == 3 for h in host.heartbeats)
    shared = [{h.envelope.digest() for h in host.heartbeats[1:]} for host in hosts]
    assert shared[0] & shared[1]


def test_a_host_is_never_sent_a_heartbeat_that_is_not_later_than_its_last(tmp_path: Path) -> None:
    # Less than a second apart, and times are whole seconds: shared ones were often signed in the second of the first.
    with live_server(tmp_path, keep_alive_seconds=0.05, heartbeat_lifetime_seconds=2) as server:
        server.admin.publish(ACME, policy("p"))
        hosts = [judged(server, f"h{number}").follow() for number in range(4)]
        for host in hosts:
            host.follow_until(lambda host=host: len(host.heartbeats) >= 3)


def test_a_host_that_has_the_index_is_not_sent_it_unless_it_refuses_a_heartbeat(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.1, heartbeat_lifetime_seconds=2) as server:
        revision = server.admin.publish(ACME, policy("p")).revision.revision
        first = judged(server).follow()
        assert first.judge.index is not None
        digest = bytes.fromhex(first.judge.index.digest)
        stream = server.host().hello(root_version=1, enforced=[revision], index_digest=digest)
        [(kind, heartbeat)] = stream.until_keep_alive()
        assert (kind, heartbeat.index) == ("heartbeat", b"")
        while not (beats := [message for kind, message in stream.until_keep_alive() if kind == "heartbeat"]):
            pass
        assert beats[0].index == b""
        stream.send(nack=dist.Nack(nonce=beats[0].nonce, code="Equivocation"))
        assert refusals(server)[0].scope == ""
        while not (beats := [message for kind, message in stream.until_keep_alive() if kind == "heartbeat"]):
            pass
        assert beats[0].index == first.judge.index.text
        stream.call.cancel()


def test_without_a_heartbeat_key_streams_go_on_and_the_metric_tells(tmp_path: Path) -> None:
    with live_server(tmp_path, keep_alive_seconds=0.1, metrics_listen=ANY_PORT) as server, server.client() as client:
        fields = root_fields(client.roots("acme")[0].envelope)
        fields["roles"].pop("heartbeat")
        client.publish_root(
            "acme", next_root(client.roots("acme")[0].envelope, server.root_signer(), roles=fields["roles"])
        )
        server.admin.publish(ACME, policy("p"))
        host = judged(server).follow()
        assert host.versions() == {ACME: (1, 1)}
        assert host.heartbeats == []
        wait_until(lambda: metric(server, "akpolicy_server_heartbeat_failures_total") >= 1)
        other = judged(server, org="globex").follow()
        assert len(other.heartbeats) == 1
        assert metric(server, "akpolicy_server_heartbeats_signed_total") >= 1
        now = root_fields(client.roots("acme")[0].envelope)["issued_at"]
        day = 86_400
        assert metric(server, "akpolicy_server_earliest_root_expiry_timestamp_seconds") == now + 365 * day
        assert metric(server, "akpolicy_server_earliest_key_expiry_timestamp_seconds") == now + 730 * day


def test_a_slow_key_delays_its_heartbeat_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Slow:
        """The key of acme's heartbeats, in a key service that takes its time."""

        def __init__(self, _uri: str) -> None:
            data = tmp_path / "server" / "data"
            with closing(Database(f"sqlite:///{data / DATABASE_FILE}")) as database, database.read() as connection:
                key_id = newest_key(connection, "acme", KeyRole.HEARTBEAT)
            self._key = load_key_file(Vault.file(data, key_id or ""))
            self.public_key = self._key.public_key

        def sign(self, message: bytes) -> bytes:
            assert released.wait(DEADLINE_S)
            return self._key.sign(message)

    monkeypatch.setattr("akpolicy_server.app.open_signer", Slow)
    monkeypatch.setattr("akpolicy_server.api.subscription.SIGNING_PATIENCE_S", 0.05)
    with live_server(tmp_path, keep_alive_seconds=3600, signers=("slow:",)) as server:
        server.admin.publish(ACME, policy("p"))
        host = judged(server).follow()
        assert (host.versions(), host.heartbeats) == ({ACME: (1, 1)}, [])
        assert len(judged(server, org="globex").follow().heartbeats) == 1
        released.set()
        # At once, and not with the next KeepAlive, which is an hour away.
        assert host.follow().is_content
        assert len(host.heartbeats) == 1


def test_a_heartbeat_is_refused_once_and_not_acknowledged(server: LiveServer) -> None:
    def heartbeat_of(stream: Stream) -> dist.HeartbeatUpdate:
        [heartbeat] = [message for kind, message in stream.until_keep_alive() if kind == "heartbeat"]
        assert isinstance(heartbeat, dist.HeartbeatUpdate)
        return heartbeat

    stream = server.host().hello()
    stream.send(ack=dist.Ack(nonce=heartbeat_of(stream).nonce))
    assert stream.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT
    stream = server.host().hello()
    nonce = heartbeat_of(stream).nonce
    for _ in range(2):
        stream.send(nack=dist.Nack(nonce=nonce, code="HeartbeatReplay"))
    assert stream.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT
