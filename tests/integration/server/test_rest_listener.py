"""The REST listener: TLS that follows its files, strangers who say nothing, and an end that waits for nobody."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import AddressInUse, ConfigError
from akpolicy.settings_types import TlsFiles
from akpolicy_server.api.rest import listener
from akpolicy_server.settings import ServerSettings
from tests.integration.server.conftest import ANY_PORT, DEADLINE_S, large_policies, live_server
from tests.simulators.certificates import AuthoritySimulator
from tests.simulators.http_host import HttpHost

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path) -> AuthoritySimulator:
    return AuthoritySimulator(tmp_path)


def serial(address: str, authority: AuthoritySimulator) -> int:
    """Return the serial number of the certificate that is shown to who names no server."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.check_hostname = False
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain) as secure,
    ):
        certificate = secure.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def test_a_new_certificate_is_shown_as_soon_as_its_files_are_there(
    tmp_path: Path, authority: AuthoritySimulator
) -> None:
    place = authority.issue("server")
    first, other = place.serial, authority.issue("other")
    tls = TlsFiles(place.certificate, place.key)
    with live_server(tmp_path, rest_listen=ANY_PORT, tls=tls) as server:
        address = str(server.serving.rest_listen)
        host = HttpHost(address, server.made.admin_api_key, authority.ca_file)
        assert host.get("/v1/orgs/acme/bundles").code == "PermissionDenied"
        assert serial(address, authority) == first
        second = other.serial
        other.move_to(place)
        assert serial(address, authority) == second
        # Half a certificate is not taken over.
        place.certificate.write_bytes(place.certificate.read_bytes()[:100])
        assert serial(address, authority) == second
        assert host.get("/v1/orgs/acme/bundles").code == "PermissionDenied"


def test_with_a_client_ca_nobody_is_answered_without_a_certificate(
    tmp_path: Path, authority: AuthoritySimulator
) -> None:
    identity, client = authority.issue("server"), authority.issue("client")
    tls = TlsFiles(identity.certificate, identity.key, authority.ca_file)
    with live_server(tmp_path, rest_listen=ANY_PORT, tls=tls) as server:
        host = HttpHost(str(server.serving.rest_listen), server.made.admin_api_key, authority.ca_file)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            host.get("/v1/docs")
        host.client = client
        assert host.get("/v1/docs").status == 200


def test_rest_beyond_this_machine_needs_tls_or_consent(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    text = '[server]\ndata_dir = "data"\nrest_listen = "0.0.0.0:8185"\n'
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"server\.rest_listen: .*reachable in plaintext"):
        ServerSettings.load(config, env={})
    config.write_text(f"{text}allow_plaintext = true\n", encoding="utf-8")
    assert ServerSettings.load(config, env={}).server.rest_listen is not None


def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    with live_server(tmp_path / "one", rest_listen=ANY_PORT) as server:
        taken = server.serving.rest_listen
        with pytest.raises(AddressInUse), live_server(tmp_path / "two", rest_listen=taken):
            pass


def test_who_connects_and_asks_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_PATIENCE_S", 0.1)
    with live_server(tmp_path, rest_listen=ANY_PORT) as server:
        address = server.serving.rest_listen
        assert address is not None
        with socket.create_connection((address.host, address.port), timeout=DEADLINE_S) as silent:
            silent.sendall(b"GET /v1/docs HTTP/1.1\r\nHost: x\r\n")
            assert silent.recv(1) == b""


def test_a_server_that_stops_does_not_wait_for_a_host_that_reads_nothing(tmp_path: Path) -> None:
    with live_server(tmp_path, rest_listen=ANY_PORT) as server:
        server.admin.publish("org/acme", large_policies(1000))
        key = server.admin.create_key("acme", "host", "host-1").secret
        address = server.serving.rest_listen
        assert address is not None
        host = HttpHost(str(address), key)
        (entry,) = host.get("/v1/orgs/acme/bundles").json["bundles"]
        path = f"/v1/orgs/acme/blobs/{entry['content']['digest']}"
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(DEADLINE_S)
            slow.connect((address.host, address.port))
            slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
            # The answer has begun, and is larger than all buffers on the way.
            assert slow.recv(8) == b"HTTP/1.1"
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            stopping.join(DEADLINE_S)
            assert not stopping.is_alive()
            # Nor does it leave the connection behind: a forgotten one is told of when it is collected.
            gc.collect()


def test_a_body_does_not_wait_until_its_head_is_acknowledged() -> None:
    with listener._bound(ANY_PORT) as listening:
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
