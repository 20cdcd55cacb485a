"""Channels to the server: where they go, whom they trust, and what is refused before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.addresses import ServerUrl
from akpolicy.client import ServerEndpoint, SidecarUnreachable, find_socket, parse_server_url
from akpolicy.client.channel import KEEPALIVE_TIME_MS, bearer, channel_options, open_channel
from akpolicy.client.publishing import PublishingClient
from akpolicy.client.sockets import DEFAULT_SOCKET
from akpolicy.errors import ConfigError
from tests.simulators.certificates import AuthoritySimulator
from tests.simulators.distance import LongWay
from tests.simulators.publishing import API_KEY, PublishingSimulator
from tests.simulators.sidecar import SidecarSimulator
from tests.unit.client.test_clients import ALLOWED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.simulators.certificates import Identity
    from tests.unit.client.conftest import Connect

# What a gRPC server with default settings tolerates (`grpc.http2.min_ping_interval_without_data_ms`).
TOLERATED_PING_INTERVAL_MS = 300_000


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://policy.example.com", ServerEndpoint("policy.example.com:443")),
        ("https://policy.example.com:8180/", ServerEndpoint("policy.example.com:8180")),
        ("http://127.0.0.1:8180", ServerEndpoint("127.0.0.1:8180", tls=False)),
        ("http://[::1]:8180", ServerEndpoint("[::1]:8180", tls=False)),
        ("http://localhost", ServerEndpoint("localhost:80", tls=False)),
    ],
)
def test_a_url_names_an_endpoint(url: str, endpoint: ServerEndpoint) -> None:
    assert parse_server_url(url) == endpoint
    assert parse_server_url(ServerUrl.parse(url)) == endpoint


@pytest.mark.parametrize(
    "url", ["policy.example.com:443", "ftp://x", "https://", "https://x/path", "https://x:0", "https://x:99999", ""]
)
def test_what_is_no_server_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="the server's URL"):
        parse_server_url(url)


def test_plaintext_over_the_network_is_refused_unless_allowed() -> None:
    with pytest.raises(ConfigError, match="plaintext"):
        parse_server_url("http://policy.example.com")
    assert not parse_server_url("http://policy.example.com", allow_plaintext=True).tls


def test_a_password_in_a_url_is_never_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_server_url("https://user:hunter2@policy.example.com")
    assert "hunter2" not in str(caught.value)


def test_certificate_files_without_tls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no TLS"):
        parse_server_url("http://127.0.0.1", ca_file=tmp_path / "ca.pem")


def test_keepalive_pings_are_rarer_than_a_default_server_tolerates() -> None:
    options = dict(channel_options(ServerEndpoint("policy.example.com:443")))
    assert options["grpc.keepalive_time_ms"] == KEEPALIVE_TIME_MS > TOLERATED_PING_INTERVAL_MS
    assert "grpc.enable_http_proxy" not in options


def test_a_server_that_is_far_away_is_reached() -> None:
    """The first connection takes longer than the pause after which a second one would be tried."""
    with PublishingSimulator() as server, LongWay(int(server.url.rpartition(":")[2]), delay_s=0.5) as way:
        endpoint = parse_server_url(f"http://127.0.0.1:{way.port}")
        with PublishingClient(endpoint, API_KEY) as client:
            assert client.history("org/acme", 1) == []


@pytest.mark.parametrize("target", ["127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_no_proxy_is_asked_for_this_machine(target: str) -> None:
    assert dict(channel_options(ServerEndpoint(target)))["grpc.enable_http_proxy"] == 0


def test_an_api_key_becomes_a_bearer() -> None:
    assert bearer("ak_secret") == (("authorization", "Bearer ak_secret"),)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "ü", "x" * 513])
def test_what_cannot_be_an_api_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bearer(key)
    assert not key or key not in str(caught.value)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> AuthoritySimulator:
    return AuthoritySimulator(tmp_path)


@pytest.fixture
def endpoint(authority: AuthoritySimulator, socket: Path) -> Iterator[ServerEndpoint]:
    server, client = authority.issue("server"), authority.issue("client")
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.certificate.read_bytes())],
        root_certificates=authority.ca_file.read_bytes(),
        require_client_auth=True,
    )
    with SidecarSimulator(socket, credentials=credentials) as sidecar:
        yield ServerEndpoint(
            f"127.0.0.1:{sidecar.port}",
            ca_file=authority.ca_file,
            client_cert_file=client.certificate,
            client_key_file=client.key,
        )


def test_a_sidecar_behind_mutual_tls_answers(connect: Connect, endpoint: ServerEndpoint) -> None:
    with connect(endpoint, timeout=20.0) as client:
        assert client.authorize(**ALLOWED).allowed
        assert client.ready()


def test_without_the_client_certificate_nobody_is_asked(connect: Connect, endpoint: ServerEndpoint) -> None:
    anonymous = replace(endpoint, client_cert_file=None, client_key_file=None)
    with connect(anonymous, timeout=20.0) as client, pytest.raises(SidecarUnreachable):
        client.authorize(**ALLOWED)


def test_a_server_of_another_authority_is_not_trusted(
    connect: Connect, endpoint: ServerEndpoint, tmp_path: Path
) -> None:
    stranger = replace(endpoint, ca_file=AuthoritySimulator(tmp_path, "another authority").ca_file)
    with connect(stranger, timeout=20.0) as client, pytest.raises(SidecarUnreachable):
        client.authorize(**ALLOWED)


def test_a_certificate_without_its_key_is_refused(authority: AuthoritySimulator) -> None:
    identity = authority.issue("client")
    with pytest.raises(ConfigError, match="both files or neither"):
        open_channel(ServerEndpoint("policy.example.com:443", client_cert_file=identity.certificate))


def test_unusable_files_are_named(authority: AuthoritySimulator, tmp_path: Path) -> None:
    identity, text = authority.issue("client"), tmp_path / "text"
    text.write_text("no certificate")
    usable = ServerEndpoint("policy.example.com:443", True, authority.ca_file, identity.certificate, identity.key)
    open_channel(usable).close()
    for path in (text, tmp_path / "missing", tmp_path):
        for what, broken in {
            "CA file": replace(usable, ca_file=path),
            "client certificate": replace(usable, client_cert_file=path),
            "client key": replace(usable, client_key_file=path),
        }.items():
            with pytest.raises(ConfigError, match=f"{what} `{path}`"):
                open_channel(broken)


class RotatingServer:
    """gRPC credentials that can be swapped, and how many handshakes asked for them."""

    def __init__(self, authority: AuthoritySimulator, identity: Identity) -> None:
        self.handshakes = 0
        self.authority, self.identity = authority, identity
        self.credentials = grpc.dynamic_ssl_server_credentials(self.fetch(), self.fetch, True)

    def fetch(self) -> grpc.ServerCertificateConfiguration:
        self.handshakes += 1
        pair = (self.identity.key.read_bytes(), self.identity.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], self.authority.ca_file.read_bytes())


def test_a_client_uses_changed_files_from_its_next_call_on_and_no_call_fails(
    connect: Connect, authority: AuthoritySimulator, socket: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RotatingServer(authority, authority.issue("server"))
    mine, ca_file = authority.issue("mine"), tmp_path / "roots.pem"
    ca_file.write_bytes(authority.ca_file.read_bytes())
    with SidecarSimulator(socket, credentials=server.credentials) as sidecar:
        endpoint = ServerEndpoint(f"127.0.0.1:{sidecar.port}", True, ca_file, mine.certificate, mine.key)
        with connect(endpoint, timeout=20.0) as client:
            assert client.authorize(**ALLOWED).allowed
            before = server.handshakes
            assert client.authorize(**ALLOWED).allowed
            assert server.handshakes == before

            # Everything is of another authority now, on both ends.
            other = AuthoritySimulator(tmp_path, "another authority")
            server.authority, server.identity = other, other.issue("other server")
            other.issue("other client").move_to(mine)
            ca_file.write_bytes(other.ca_file.read_bytes())
            assert client.authorize(**ALLOWED).allowed
            assert server.handshakes == before + 1

            # What cannot be used changes nothing, and is said once.
            ca_file.write_bytes(b"")
            for _ in range(3):
                assert client.authorize(**ALLOWED).allowed
            assert client.ready()
            assert server.handshakes == before + 1
    said = [record.getMessage() for record in caplog.records if record.name == "akpolicy.client"]
    assert len(said) == 1
    assert f"CA file `{ca_file}` has no readable certificate" in said[0]


def test_a_client_over_tls_begins_with_files_that_can_be_used(
    connect: Connect, authority: AuthoritySimulator, tmp_path: Path
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    with pytest.raises(ConfigError, match="is not the key of"):
        connect(ServerEndpoint("127.0.0.1:1", True, authority.ca_file, first.certificate, second.key))


# --- the sidecar's socket ---------------------------------------------------------------------------------------------


def test_the_environment_names_the_socket() -> None:
    assert str(find_socket({"AKPOLICY_SOCKET": "/x/y.sock"})) == "/x/y.sock"


def test_the_socket_of_a_sidecar_of_this_user_is_found(socket: Path, sidecar: SidecarSimulator) -> None:
    place = socket.parent / "akpolicy" / "sidecar.sock"
    place.parent.mkdir()
    place.symlink_to(socket)
    if DEFAULT_SOCKET.exists():
        pytest.skip("this machine has a sidecar")
    assert find_socket({"XDG_RUNTIME_DIR": str(socket.parent)}) == place


def test_without_any_socket_the_system_one_is_meant(tmp_path: Path) -> None:
    assert find_socket({"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "relative"}) == DEFAULT_SOCKET
