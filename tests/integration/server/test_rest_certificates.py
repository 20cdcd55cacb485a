"""REST for hosts that are known by their client certificate: real certificates, real connections."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import socket
import ssl
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.clock import SystemClock
from akpolicy.heartbeat import Heartbeat
from akpolicy.settings_types import TlsFiles
from akpolicy.strict_json import load
from akpolicy.v1 import fleet_pb2
from akpolicy.v1.distribution_pb2_grpc import DistributionServiceStub
from akpolicy.v1.publishing_pb2_grpc import PublishingServiceStub
from akpolicy_server.denied_hosts import DeniedHosts
from akpolicy_server.settings_hosts import HostCertificates
from akpolicy_server.store.hosts import HostKey
from tests.integration.server.conftest import (
    ANY_PORT,
    DEADLINE_S,
    LiveServer,
    Operator,
    Stream,
    bearer,
    large_policies,
    live_server,
    policy,
)
from tests.integration.server.test_host_certificates import DOMAIN, uri
from tests.simulators.certificates import AuthoritySimulator, Identity
from tests.simulators.http_host import HttpAnswer, HttpHost
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy.addresses import HostPort

OWN = "org/acme"
BUNDLES = "/v1/orgs/acme/bundles"
NONCE = "00112233445566778899aabbccddeeff"
ANSWERED = b"HTTP/1.1 200"
NO_CONNECTION = (ssl.SSLError, ConnectionError)


@dataclass
class Secured:
    """A server with REST for API keys and for certificates, who signs these, and an admin."""

    server: LiveServer
    servers: AuthoritySimulator
    clients: AuthoritySimulator
    admin: Operator

    @property
    def address(self) -> HostPort:
        """Where hosts with certificates ask."""
        address = self.server.serving.hosts_rest_listen
        assert address is not None
        return address

    def host(self, identity: Identity | None, secret: str = "", *, main: bool = False) -> HttpHost:
        """Return a host with a certificate, a key, or both; at the listener for API keys if `main`."""
        address = self.server.serving.rest_listen if main else self.address
        return HttpHost(str(address), secret, self.servers.ca_file, identity)

    def issue(self, name: str = "laptop-1", org: str = "acme", until: dt.datetime | None = None) -> Identity:
        """Sign a host's certificate."""
        return self.clients.issue(f"{org}-{name}", uris=[uri(name, org)], until=until)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    servers, clients = AuthoritySimulator(tmp_path, "servers"), AuthoritySimulator(tmp_path, "clients")
    identity = servers.issue("server")
    with live_server(
        tmp_path,
        keep_alive_seconds=0.2,
        rest_listen=ANY_PORT,
        tls=TlsFiles(identity.certificate, identity.key),
        host_certificates=HostCertificates(
            clients.ca_file, DOMAIN, ("acme", "globex"), listen=ANY_PORT, rest_listen=ANY_PORT
        ),
    ) as server:
        credentials = grpc.ssl_channel_credentials(servers.ca_file.read_bytes())
        with grpc.secure_channel(str(server.serving.listen), credentials) as channel:
            admin = Operator(PublishingServiceStub(channel), bearer(server.made.admin_api_key))
            yield Secured(server, servers, clients, admin)


def soon() -> dt.datetime:
    """Return when a short-lived certificate ends."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=5)


def test_a_certificate_gets_all_that_a_key_does(secured: Secured) -> None:
    secured.admin.publish(OWN, policy("p"))
    host = secured.host(secured.issue())
    answer = host.get(BUNDLES)
    assert answer.status == 200
    tag = answer.headers["etag"]
    assert tag == f'"{hashlib.sha256(answer.body).hexdigest()}"'
    assert (host.get(BUNDLES, If_None_Match=tag).status, host.get(BUNDLES, If_None_Match='"x"').status) == (304, 200)
    (entry,) = answer.json["bundles"]
    blob = host.get(f"/v1/orgs/acme/blobs/{entry['content']['digest']}")
    assert hashlib.sha256(blob.body).hexdigest() == entry["content"]["digest"]
    beat = host.get(f"/v1/orgs/acme/heartbeat?nonce={NONCE}")
    assert load(base64.b64decode(beat.json["payload"]), Heartbeat).nonce == NONCE
    assert host.report(root_version=1, complete=True, poll_interval_ms=60_000).status == 204
    request = fleet_pb2.ListHostsRequest(org="acme")

    def listed() -> list[str]:
        hosts = secured.admin.stub.ListHosts(request, metadata=secured.admin.metadata, timeout=DEADLINE_S).hosts
        return [host.host_id for host in hosts if host.connected]

    wait_until(lambda: listed() == ["laptop-1"], what="the host in the fleet")
    # By a key they are the same bytes.
    key = secured.admin.create_key("acme", "host", "laptop-1").secret
    assert secured.host(None, key, main=True).get(BUNDLES).headers["etag"] == tag


def test_certificates_that_do_not_verify_get_no_connection(secured: Secured, tmp_path: Path) -> None:
    stranger = AuthoritySimulator(tmp_path, "strangers").issue("other", uris=[uri()])
    old = secured.issue(until=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1))
    key = secured.admin.create_key("acme", "host", "laptop-1").secret
    for identity in (None, stranger, old):
        for path in (BUNDLES, "/v1/docs"):
            with pytest.raises(NO_CONNECTION):
                secured.host(identity, key).get(path)


@pytest.mark.parametrize(
    ("uris", "said"),
    [
        ([], "by one URI, it has 0"),
        ([uri(), uri("laptop-2")], "by one URI, it has 2"),
        ([uri().replace(DOMAIN, "elsewhere.example.com")], "of another trust domain"),
        (["https://example.com/org/acme/host/laptop-1"], "is no SPIFFE id"),
    ],
)
def test_a_certificate_that_names_no_host_is_refused(secured: Secured, uris: list[str], said: str) -> None:
    answer = secured.host(secured.clients.issue("h", uris=uris)).get(BUNDLES)
    assert (answer.status, answer.code) == (401, "Unauthenticated")
    assert said in answer.json["error"]["message"]


def test_a_certificate_speaks_for_its_own_org_alone(secured: Secured) -> None:
    host = secured.host(secured.issue())
    for path in ("bundles", f"blobs/{'0' * 64}", f"heartbeat?nonce={NONCE}"):
        answer = host.get(f"/v1/orgs/globex/{path}")
        assert (answer.status, answer.code) == (403, "PermissionDenied")
    assert host.report("globex").status == 403
    assert secured.host(secured.issue(org="globex")).get("/v1/orgs/globex/bundles").status == 200
    foreign = secured.host(secured.issue(org="initech")).get("/v1/orgs/initech/bundles")
    assert (foreign.status, foreign.code) == (403, "PermissionDenied")
    assert "do not speak for hosts of the org `initech`" in foreign.json["error"]["message"]


def test_nothing_that_is_sent_names_a_host(secured: Secured) -> None:
    nobody = secured.clients.issue("nobody")
    shown = secured.issue().certificate.read_text().replace("\n", "")
    for header in ("X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "X-Client-Cert", "Client-Cert"):
        assert secured.host(nobody).call("GET", BUNDLES, None, **{header: shown}).status == 401


def test_a_key_beside_a_certificate_must_be_of_the_same_host(secured: Secured) -> None:
    mine = secured.issue()
    for org, role, host_id in (("acme", "host", "laptop-2"), ("globex", "host", "laptop-1"), ("acme", "publisher", "")):
        answer = secured.host(mine, secured.admin.create_key(org, role, host_id).secret).get(BUNDLES)
        assert (answer.status, "the API key is not" in answer.json["error"]["message"]) == (401, True)
    assert secured.host(mine, "nonsense").get(BUNDLES).status == 401
    own = secured.admin.create_key("acme", "host", "laptop-1")
    both = secured.host(mine, own.secret)
    assert both.get(BUNDLES).status == 200
    secured.admin.revoke_key(own.key_id)
    assert both.get(BUNDLES).status == 401
    assert secured.host(mine).get(BUNDLES).status == 200


def test_certificates_are_for_their_listener_alone_and_for_no_legacy_host(secured: Secured) -> None:
    mine = secured.issue()
    assert secured.host(mine, main=True).get(BUNDLES).status == 401
    key = secured.admin.create_key("acme", "host", "laptop-1").secret
    assert secured.host(None, key, main=True).get(BUNDLES).status == 200
    assert (secured.host(mine).get("/v1/policies").code, secured.host(mine).get("/v1/openapi.json").status) == (
        "NotFound",
        200,
    )


def test_an_open_connection_is_of_no_use_after_its_certificate(secured: Secured) -> None:
    until = soon()
    host = secured.host(secured.issue(until=until))
    with closing(host.connection()) as connection:
        assert host.call_on(connection, "GET", BUNDLES).status == 200
        begun = connection.sock
        answers: list[HttpAnswer] = []

        def is_refused() -> bool:
            assert connection.sock is begun
            answers.append(host.call_on(connection, "GET", BUNDLES))
            return answers[-1].status != 200

        wait_until(is_refused, what="the end of the certificate")
        answer = answers[-1]
        assert dt.datetime.now(dt.UTC) >= until
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert "has expired" in answer.json["error"]["message"]
        assert connection.sock is None
    with pytest.raises(NO_CONNECTION):
        host.get(BUNDLES)


def test_an_answer_ends_when_its_certificate_does(secured: Secured) -> None:
    secured.admin.publish(OWN, large_policies(1000))
    until = soon()
    host = secured.host(secured.issue(until=until))
    (entry,) = host.get(BUNDLES).json["bundles"]
    request = f"GET /v1/orgs/acme/blobs/{entry['content']['digest']} HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(DEADLINE_S)
        plain.connect((secured.address.host, secured.address.port))
        with host.tls().wrap_socket(plain, server_hostname="127.0.0.1") as slow:
            slow.sendall(request.encode())
            assert slow.recv(8) == b"HTTP/1.1"
            ended = b'streams_ended_total{reason="certificate_expired"} 1.0'
            metrics = secured.server.serving.metrics
            wait_until(lambda: ended in metrics.expose()[1], what="the end of the answer")
            assert dt.datetime.now(dt.UTC) >= until


def test_a_refused_host_is_let_go_and_let_in_again(secured: Secured) -> None:
    mine, other = secured.host(secured.issue()), secured.host(secured.issue("laptop-2"))
    denied = DeniedHosts(secured.server.serving.database, SystemClock())
    with closing(mine.connection()) as connection:
        assert mine.call_on(connection, "GET", BUNDLES).status == 200
        denied.deny(HostKey("acme", "laptop-1"), "stolen")
        for answer in (mine.call_on(connection, "GET", BUNDLES), mine.get(BUNDLES), mine.report()):
            assert (answer.status, answer.code) == (403, "HostDenied")
            assert answer.json["error"]["message"].endswith("is refused by this server's operator")
    assert other.get(BUNDLES).status == 200
    denied.allow(HostKey("acme", "laptop-1"))
    assert mine.get(BUNDLES).status == 200


# --- TLS files --------------------------------------------------------------------------------------------------------


@contextmanager
def resumed(secured: Secured, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Iterator[ssl.SSLSocket]:
    """Connect, resuming a session if there is one, and ask; raise `ConnectionError` if nothing is answered."""
    address = (secured.address.host, secured.address.port)
    with (
        socket.create_connection(address, timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure,
    ):
        secure.sendall(f"GET {BUNDLES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        # TLS 1.3 refuses after the client's handshake; asyncio tells nothing then but the end.
        if secure.recv(len(ANSWERED)) != ANSWERED:
            raise ConnectionError
        yield secure


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("options", [0, ssl.OP_NO_TICKET])
def test_no_session_outlives_the_authority_that_let_it_in(
    secured: Secured, tmp_path: Path, version: ssl.TLSVersion, options: int
) -> None:
    context = secured.host(secured.issue()).tls()
    context.maximum_version = version
    context.options |= options
    # It stays open: a session that is kept by the server is dropped with a connection that ends without a word.
    with resumed(secured, context, None) as first:
        session = first.session
        # While the authority is there, a session goes on as the host that began it.
        with resumed(secured, context, session) as second:
            assert second.session_reused
        AuthoritySimulator(tmp_path, "renewed").ca_file.rename(secured.clients.ca_file)
        for one in (session, None):
            with pytest.raises(NO_CONNECTION), resumed(secured, context, one):
                pass


def test_a_renewed_authority_counts_for_the_next_connection(secured: Secured, tmp_path: Path) -> None:
    renewed = AuthoritySimulator(tmp_path, "renewed")
    new = secured.host(renewed.issue("new", uris=[uri("new")]))
    old = secured.host(secured.issue("old"))
    with closing(old.connection()) as connection:
        assert old.call_on(connection, "GET", BUNDLES).status == 200
        with pytest.raises(NO_CONNECTION):
            new.get(BUNDLES)
        good = secured.clients.ca_file.read_bytes()
        # Half a file is not taken over.
        secured.clients.ca_file.write_bytes(good[:100])
        assert old.get(BUNDLES).status == 200
        renewed.ca_file.rename(secured.clients.ca_file)
        assert new.get(BUNDLES).status == 200
        with pytest.raises(NO_CONNECTION):
            old.get(BUNDLES)
        # What stands goes on, as a stream does: the end of the certificate, and the list of refused hosts, end it.
        assert old.call_on(connection, "GET", BUNDLES).status == 200


def test_an_authority_between_is_trusted_alone_over_grpc_and_rest(secured: Secured, tmp_path: Path) -> None:
    above = AuthoritySimulator(tmp_path, "above")
    between = AuthoritySimulator(tmp_path, "between", above=above)
    identity = between.issue("h", uris=[uri()])
    between.ca_file.rename(secured.clients.ca_file)
    assert secured.host(identity).get(BUNDLES).status == 200
    shown = (identity.key.read_bytes(), identity.certificate.read_bytes())
    credentials = grpc.ssl_channel_credentials(secured.servers.ca_file.read_bytes(), *shown)
    with grpc.secure_channel(str(secured.server.serving.hosts_listen), credentials) as channel:
        stream = Stream(DistributionServiceStub(channel), ())
        assert stream.hello().until_keep_alive()
        stream.call.cancel()
    sibling = above.issue("sibling", uris=[uri()])
    with pytest.raises(NO_CONNECTION):
        secured.host(sibling).get(BUNDLES)
