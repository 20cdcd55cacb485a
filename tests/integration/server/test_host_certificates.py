"""Hosts that are known by their client certificate: real certificates, a real listener, real streams."""

from __future__ import annotations

import datetime as dt
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.clock import SystemClock
from akpolicy.settings_types import TlsFiles
from akpolicy.v1 import distribution_pb2 as dist
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
    live_server,
    policy,
)
from tests.simulators.certificates import AuthoritySimulator, Identity
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOMAIN = "hosts.example.com"


def uri(host_id: str = "laptop-1", org: str = "acme") -> str:
    return f"spiffe://{DOMAIN}/org/{org}/host/{host_id}"


@dataclass
class Secured:
    """A server with a listener for certificates, who signs them, and an admin."""

    server: LiveServer
    servers: AuthoritySimulator
    clients: AuthoritySimulator
    admin: Operator

    @contextmanager
    def stream(self, identity: Identity | None, secret: str = "", *, main: bool = False) -> Iterator[Stream]:
        """Open a stream by a certificate, a key, or both; at the main listener instead of the hosts' if `main`."""
        with self.channel(identity, main=main) as channel:
            stream = Stream(DistributionServiceStub(channel), bearer(secret) if secret else ())
            yield stream
            stream.call.cancel()

    @contextmanager
    def channel(self, identity: Identity | None, *, main: bool = False) -> Iterator[grpc.Channel]:
        """Connect with a certificate."""
        shown = (identity.key.read_bytes(), identity.certificate.read_bytes()) if identity else (None, None)
        credentials = grpc.ssl_channel_credentials(self.servers.ca_file.read_bytes(), *shown)
        address = self.server.serving.listen if main else self.server.serving.hosts_listen
        with grpc.secure_channel(str(address), credentials) as channel:
            yield channel

    def refusal(self, identity: Identity | None, secret: str = "", org: str = "acme") -> tuple[grpc.StatusCode, str]:
        """Return how a stream ends that is refused."""
        with self.stream(identity, secret) as stream:
            return stream.hello(org).ending()


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    servers, clients = AuthoritySimulator(tmp_path, "servers"), AuthoritySimulator(tmp_path, "clients")
    identity = servers.issue("server")
    with live_server(
        tmp_path,
        keep_alive_seconds=0.2,
        tls=TlsFiles(identity.certificate, identity.key),
        host_certificates=HostCertificates(clients.ca_file, DOMAIN, ("acme", "globex"), listen=ANY_PORT),
    ) as server:
        credentials = grpc.ssl_channel_credentials(servers.ca_file.read_bytes())
        with grpc.secure_channel(str(server.serving.listen), credentials) as channel:
            admin = Operator(PublishingServiceStub(channel), bearer(server.made.admin_api_key))
            yield Secured(server, servers, clients, admin)


def test_a_certificate_opens_a_stream_and_the_fleet_has_its_host(secured: Secured) -> None:
    secured.admin.publish("org/acme", policy("p"))
    with secured.stream(secured.clients.issue("h", uris=[uri()])) as stream:
        [update] = stream.hello().updates()
        stream.ack(update)
        request = fleet_pb2.ListHostsRequest(org="acme")

        def listed() -> list[str]:
            hosts = secured.admin.stub.ListHosts(request, metadata=secured.admin.metadata, timeout=DEADLINE_S).hosts
            return [host.host_id for host in hosts if host.connected]

        assert wait_until(lambda: listed() == ["laptop-1"], what="the host in the fleet")


def test_certificates_that_do_not_verify_get_no_connection(secured: Secured, tmp_path: Path) -> None:
    stranger = AuthoritySimulator(tmp_path, "strangers").issue("other", uris=[uri()])
    old = secured.clients.issue("old", uris=[uri()], until=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1))
    secret = secured.admin.create_key("acme", "host", "laptop-1").secret
    for identity in (None, stranger, old):
        assert secured.refusal(identity, secret)[0] is grpc.StatusCode.UNAVAILABLE
    assert len(secured.server.serving.fanout) == 0


@pytest.mark.parametrize(
    ("uris", "said"),
    [
        ([], "by one URI, it has 0"),
        ([uri(), uri("laptop-2")], "by one URI, it has 2"),
        ([uri().replace(DOMAIN, "elsewhere.example.com")], "of another trust domain"),
        ([uri().replace("/host/", "/user/")], "is not `/org/{org}/host/{host_id}`"),
        (["https://example.com/org/acme/host/laptop-1"], "is no SPIFFE id"),
    ],
)
def test_a_certificate_that_names_no_host_is_refused(secured: Secured, uris: list[str], said: str) -> None:
    code, message = secured.refusal(secured.clients.issue("h", uris=uris))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert said in message


def test_a_certificate_speaks_for_its_own_host_and_org_alone(secured: Secured) -> None:
    mine = secured.clients.issue("mine", uris=[uri()])
    code, message = secured.refusal(mine, org="globex")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "the org `acme`, not of `globex`" in message
    foreign = secured.clients.issue("foreign", uris=[uri(org="initech")])
    code, message = secured.refusal(foreign, org="initech")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "do not speak for hosts of the org `initech`" in message
    with secured.stream(mine) as stream:
        stream.hello().until_keep_alive()
        stream.send(ack=dist.Ack(nonce=b"n" * 16))
        assert stream.ending()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_key_beside_a_certificate_must_be_of_the_same_host(secured: Secured) -> None:
    mine = secured.clients.issue("mine", uris=[uri()])
    for org, role, host_id in (("acme", "host", "laptop-2"), ("globex", "host", "laptop-1"), ("acme", "publisher", "")):
        code, message = secured.refusal(mine, secured.admin.create_key(org, role, host_id).secret)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "the API key is not" in message
    assert secured.refusal(mine, "nonsense")[0] is grpc.StatusCode.UNAUTHENTICATED
    own = secured.admin.create_key("acme", "host", "laptop-1")
    with secured.stream(mine, own.secret) as stream:
        stream.hello().until_keep_alive()
        secured.admin.revoke_key(own.key_id)
        assert stream.ending() == (grpc.StatusCode.UNAUTHENTICATED, "the API key was revoked")


def test_certificates_are_for_streams_of_hosts_and_for_their_listener_alone(secured: Secured) -> None:
    mine = secured.clients.issue("mine", uris=[uri()])
    with secured.channel(mine) as channel, pytest.raises(grpc.RpcError) as refused:
        Operator(PublishingServiceStub(channel), secured.admin.metadata).list("org/acme")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with secured.stream(mine, main=True) as stream:
        code, message = stream.hello().ending()
    assert (code, "no API key" in message) == (grpc.StatusCode.UNAUTHENTICATED, True)
    secret = secured.admin.create_key("acme", "host", "laptop-1").secret
    with secured.stream(None, secret, main=True) as stream:
        assert stream.hello().until_keep_alive()


def test_a_stream_ends_when_its_certificate_does(secured: Secured) -> None:
    until = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=4)
    with (
        secured.stream(secured.clients.issue("short", uris=[uri("short")], until=until)) as short,
        secured.stream(secured.clients.issue("long", uris=[uri("long")])) as long,
    ):
        long.hello().until_keep_alive()
        short.hello().until_keep_alive()
        assert short.ending() == (grpc.StatusCode.UNAUTHENTICATED, "the client certificate has expired")
        assert dt.datetime.now(dt.UTC) >= until
        assert long.next()[0] in ("keep_alive", "heartbeat")


def test_a_refused_hosts_open_streams_end_and_no_new_one_begins(secured: Secured) -> None:
    mine, other = (secured.clients.issue(name, uris=[uri(name)]) for name in ("laptop-1", "laptop-2"))
    secret = secured.admin.create_key("acme", "host", "laptop-1").secret
    denied = DeniedHosts(secured.server.serving.database, SystemClock())
    said = (grpc.StatusCode.PERMISSION_DENIED, "this host is refused by this server's operator")
    with (
        secured.stream(mine) as by_certificate,
        secured.stream(None, secret, main=True) as by_key,
        secured.stream(other) as unaffected,
    ):
        for stream in (by_certificate, by_key, unaffected):
            stream.hello().until_keep_alive()
        denied.deny(HostKey("acme", "laptop-1"), "stolen")
        assert by_certificate.ending() == said
        assert by_key.ending() == said
        assert unaffected.next()[0] in ("keep_alive", "heartbeat")
    assert secured.refusal(mine)[0] is grpc.StatusCode.PERMISSION_DENIED
    denied.allow(HostKey("acme", "laptop-1"))
    with secured.stream(mine) as again:
        assert again.hello().until_keep_alive()


def test_a_renewed_client_authority_counts_for_the_next_connection(secured: Secured, tmp_path: Path) -> None:
    renewed = AuthoritySimulator(tmp_path, "renewed")
    new, old = renewed.issue("new", uris=[uri("new")]), secured.clients.issue("old", uris=[uri("old")])
    with secured.stream(old) as stream:
        stream.hello().until_keep_alive()
        assert secured.refusal(new)[0] is grpc.StatusCode.UNAVAILABLE
        renewed.ca_file.rename(secured.clients.ca_file)
        with secured.stream(new) as let_in:
            assert let_in.hello().until_keep_alive()
        assert secured.refusal(old)[0] is grpc.StatusCode.UNAVAILABLE
        # What stands goes on: the end of the certificate, and the list of refused hosts, end it.
        assert stream.next()[0] in ("keep_alive", "heartbeat")
