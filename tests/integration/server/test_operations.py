"""What surrounds the services: TLS, health, reflection, metrics."""

from __future__ import annotations

import json
import socket
import struct
import urllib.error
import urllib.request
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped] # it has no types
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped] # it has no types
    reflection_pb2,
    reflection_pb2_grpc,
)
from structlog.testing import capture_logs

from akpolicy.clock import SystemClock
from akpolicy.errors import AddressInUse, ConfigError, ServerUnreachable, StateDirUnusable
from akpolicy.settings_types import TlsFiles
from akpolicy.v1.distribution_pb2_grpc import DistributionServiceStub
from akpolicy.v1.publishing_pb2 import CreateOrgRequest
from akpolicy.v1.publishing_pb2_grpc import PublishingServiceStub
from akpolicy_server.installation import install
from akpolicy_server.listener import MAX_RECEIVED_BYTES, MAX_STREAMS_PER_CONNECTION
from akpolicy_server.orgs import Orgs
from akpolicy_server.settings import ServerSettings
from tests.integration.server.conftest import (
    ANY_PORT,
    DEADLINE_S,
    LiveServer,
    Operator,
    Stream,
    bearer,
    live_server,
    policy,
)
from tests.simulators.certificates import AuthoritySimulator
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.addresses import HostPort
    from akpolicy_server.access import Caller

SERVICES = ("akpolicy.v1.PublishingService", "akpolicy.v1.DistributionService")


# --- health and reflection --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_says_serving_for_the_whole_and_each_service(server: LiveServer, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stopping_server_says_so_while_calls_still_end(tmp_path: Path) -> None:
    with live_server(tmp_path, shutdown_grace_seconds=30.0, metrics_listen=ANY_PORT) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.on_loop(server._stop.set)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        address = server.serving.metrics_listen
        assert wait_until(lambda: _get(address, "/readyz")[0] == 503)
        assert json.loads(_get(address, "/readyz")[1]) == {"ready": False, "stopping": True}
        watch.cancel()


def test_reflection_lists_the_services(server: LiveServer) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=DEADLINE_S)))
    listed = {service.name for service in answer.list_services_response.service}
    assert listed == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


# --- metrics ----------------------------------------------------------------------------------------------------------


def _get(address: HostPort | None, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_tell_what_happened(tmp_path: Path) -> None:
    with live_server(tmp_path, metrics_listen=ANY_PORT, keep_alive_seconds=0.2) as server:
        published = server.admin.publish("org/acme", policy("p")).revision
        with pytest.raises(grpc.RpcError):
            server.admin.publish("org/acme", "permit (")
        with pytest.raises(grpc.RpcError):
            server.operator("wrong").list("org/acme")
        stream = server.host().hello()
        (update,) = stream.updates()
        stream.ack(update)
        wait_until(lambda: _value(server, "akpolicy_server_acks_total") == 1)
        expected = {
            'akpolicy_server_publishes_total{outcome="published"}': 1,
            'akpolicy_server_publishes_total{outcome="refused"}': 1,
            'akpolicy_server_authentication_failures_total{reason="refused"}': 1,
            'akpolicy_server_rpc_total{method="Publish",status="INVALID_ARGUMENT"}': 1,
            "akpolicy_server_subscribers": 1,
            "akpolicy_server_updates_sent_total": 1,
            "akpolicy_server_orgs": 2,
            "akpolicy_server_earliest_bundle_expiry_timestamp_seconds": published.expires_at.seconds,
        }
        assert {name: _value(server, name) for name in expected} == expected
        stream.call.cancel()
        wait_until(lambda: _value(server, "akpolicy_server_subscribers") == 0)


def _value(server: LiveServer, name: str) -> float:
    _, text = _get(server.serving.metrics_listen, "/metrics")
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == name]
    return float(values[0]) if values else 0.0


def test_readiness_follows_the_database(tmp_path: Path) -> None:
    with live_server(tmp_path, metrics_listen=ANY_PORT) as server:
        address = server.serving.metrics_listen
        assert _get(address, "/healthz")[0] == 200
        status, body = _get(address, "/readyz")
        assert (status, json.loads(body)) == (200, {"ready": True, "database": "ok"})
        path = server.made.config.parent / "data" / "akpolicy.sqlite3"
        server.serving.database.close()
        path.rename(path.with_suffix(".away"))
        path.mkdir()
        status, body = _get(address, "/readyz")
        assert (status, json.loads(body)["ready"]) == (503, False)
        # Calls fail as unavailable, metrics still come, and nothing needs a restart.
        with pytest.raises(grpc.RpcError) as caught:
            server.admin.list("org/acme")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert _get(address, "/metrics")[0] == 200
        path.rmdir()
        path.with_suffix(".away").rename(path)
        assert _get(address, "/readyz")[0] == 200
        assert not server.admin.list("org/acme").revisions


def test_a_database_that_goes_away_is_not_made_anew(tmp_path: Path) -> None:
    with live_server(tmp_path, metrics_listen=ANY_PORT) as server:
        path = server.made.config.parent / "data" / "akpolicy.sqlite3"
        server.serving.database.close()
        path.rename(path.with_suffix(".away"))
        with server.client() as client, pytest.raises(ServerUnreachable) as refused:
            client.history("org/acme", 1)
        assert "cannot serve this now: the database cannot be used right now" in refused.value.message
        assert "check the address" not in refused.value.message
        assert not path.exists()
        path.with_suffix(".away").rename(path)
        assert not server.admin.list("org/acme").revisions


# --- TLS --------------------------------------------------------------------------------------------------------------


def _secure(server: LiveServer, **files: bytes) -> grpc.Channel:
    return grpc.secure_channel(str(server.serving.listen), grpc.ssl_channel_credentials(**files))


def _orgs_call(channel: grpc.Channel, server: LiveServer) -> Any:
    return Operator(PublishingServiceStub(channel), bearer(server.made.admin_api_key)).list("org/acme")


def test_over_tls_publishing_and_streams_work_and_plaintext_does_not(tmp_path: Path) -> None:
    authority = AuthoritySimulator(tmp_path)
    identity = authority.issue("server")
    tls = TlsFiles(identity.certificate, identity.key)
    with live_server(tmp_path, tls=tls, keep_alive_seconds=0.2) as server:
        with _secure(server, root_certificates=authority.ca_file.read_bytes()) as channel:
            admin = Operator(PublishingServiceStub(channel), bearer(server.made.admin_api_key))
            admin.publish("org/acme", policy("p"))
            secret = admin.create_key("acme", "host", "h").secret
            stream = Stream(DistributionServiceStub(channel), bearer(secret)).hello()
            assert len(stream.updates()) == 1
            stream.call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            server.admin.list("org/acme")  # the fixture's own channel is plaintext
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        stranger = AuthoritySimulator(tmp_path, "other authority")
        with _secure(server, root_certificates=stranger.ca_file.read_bytes()) as channel, pytest.raises(grpc.RpcError):
            _orgs_call(channel, server)


def test_with_a_client_authority_only_its_clients_get_in(tmp_path: Path) -> None:
    servers, clients = AuthoritySimulator(tmp_path, "servers"), AuthoritySimulator(tmp_path, "clients")
    identity, client = servers.issue("server"), clients.issue("client")
    foreign = AuthoritySimulator(tmp_path, "foreigners").issue("foreign")
    tls = TlsFiles(identity.certificate, identity.key, clients.ca_file)
    root = servers.ca_file.read_bytes()
    with live_server(tmp_path, tls=tls) as server:
        presented = {"private_key": client.key.read_bytes(), "certificate_chain": client.certificate.read_bytes()}
        with _secure(server, root_certificates=root, **presented) as channel:
            assert not _orgs_call(channel, server).revisions
        wrong = {"private_key": foreign.key.read_bytes(), "certificate_chain": foreign.certificate.read_bytes()}
        for files in ({}, wrong):
            with _secure(server, root_certificates=root, **files) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    _orgs_call(channel, server)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_what_prevents_a_start_is_said(tmp_path: Path) -> None:
    with live_server(tmp_path / "first") as server:
        with pytest.raises(AddressInUse), live_server(tmp_path / "second", listen=server.serving.listen):
            pass
        (tmp_path / "broken.pem").write_text("nonsense")
        tls = TlsFiles(tmp_path / "broken.pem", tmp_path / "broken.pem")
        with pytest.raises(ConfigError), live_server(tmp_path / "third", tls=tls):
            pass


def test_a_data_directory_that_others_can_enter_prevents_a_start(tmp_path: Path) -> None:
    made = install(tmp_path / "server", (), listen=ANY_PORT, metrics_listen=None, clock=SystemClock())
    (tmp_path / "server" / "data").chmod(0o755)
    with pytest.raises(StateDirUnusable, match="chmod 700"), LiveServer(ServerSettings.load(made.config, env={}), made):
        pass


# --- what strangers and bugs can do -----------------------------------------------------------------------------------


def test_a_message_without_a_key_is_not_taken_beyond_its_limit(server: LiveServer) -> None:
    stub = PublishingServiceStub(server.channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.CreateOrg(CreateOrgRequest(org="x" * (MAX_RECEIVED_BYTES + 1)), timeout=DEADLINE_S)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_connection_has_a_bounded_number_of_streams(server: LiveServer) -> None:
    address = server.serving.listen
    with socket.create_connection((address.host, address.port), timeout=DEADLINE_S) as connection:
        # RFC 9113, sections 3.4 and 6.5: the preface, empty settings; the server answers with its own.
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        with connection.makefile("rb") as received:
            header = received.read(9)
            settings = received.read(int.from_bytes(header[:3], "big"))
    assert header[3] == 4
    assert dict(struct.iter_unpack("!HI", settings))[3] == MAX_STREAMS_PER_CONNECTION


def test_calls_of_strangers_do_not_fill_the_log_and_those_of_revoked_keys_are_in_it(server: LiveServer) -> None:
    created = server.admin.create_key("acme", "host", "h")
    stream = server.stream(created.secret).hello()
    stream.until_keep_alive()
    with capture_logs() as logs:
        for secret in ("no key", created.secret[:-3] + "xyz"):
            with pytest.raises(grpc.RpcError):
                server.operator(secret).list("org/acme")
        server.admin.revoke_key(created.key_id)
        assert stream.ending()[0] is grpc.StatusCode.UNAUTHENTICATED
        wait_until(lambda: any(entry.get("method") == "Subscribe" for entry in logs))
    ended = [(entry["method"], entry["log_level"]) for entry in logs if entry.get("status") == "UNAUTHENTICATED"]
    assert ended == [("ListRevisions", "debug"), ("ListRevisions", "debug"), ("Subscribe", "info")]


def test_a_bug_is_logged_with_its_traceback_and_shown_as_an_incident_alone(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Orgs, _caller: Caller, _org: str, _keys: tuple[str, ...], _threshold: int) -> None:
        raise ValueError("a secret detail")

    monkeypatch.setattr(Orgs, "create", fail)
    with capture_logs() as logs, pytest.raises(grpc.RpcError) as failed:
        server.admin.stub.CreateOrg(CreateOrgRequest(org="new"), metadata=server.admin.metadata, timeout=DEADLINE_S)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "a secret detail" not in (failed.value.details() or "")
    [incident] = [entry for entry in logs if "exc_info" in entry]
    logged = "".join(format_exception(incident["exc_info"]))
    assert "ValueError: a secret detail" in logged
    assert "in fail" in logged
    assert "Traceback" not in (failed.value.details() or "")
    assert str(incident["incident"]) in (failed.value.details() or "")
