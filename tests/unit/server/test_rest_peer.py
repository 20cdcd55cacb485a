"""From the scope of a REST call to the host that makes it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.requests import Request

from akpolicy.errors import HostDenied, OrgNotFound, PermissionDenied, Unauthenticated
from akpolicy_server.access import Role
from akpolicy_server.api.authentication import HostAuthentication, KeyAuthentication
from akpolicy_server.api.rest.peer import by_certificate, by_key, certificates_in, with_peer
from akpolicy_server.certified_hosts import CertifiedHosts
from akpolicy_server.denied_hosts import DeniedHosts
from akpolicy_server.host_identity import HostNaming
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.store.hosts import HostKey
from akpolicy_server.threads import Threads
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from akpolicy_server.access import Caller
    from tests.unit.server.conftest import Core

DOMAIN = "hosts.example.com"
NAMING = HostNaming(DOMAIN, "/org/{org}/host/{host_id}", ("acme", "initech"))
URI = f"spiffe://{DOMAIN}/org/acme/host/laptop-1"


class Peer:
    """What a connection's TLS says of its peer."""

    def __init__(self, der: bytes | None, mode: ssl.VerifyMode = ssl.CERT_REQUIRED) -> None:
        self._der = der
        self.context = self
        self.verify_mode = mode

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._der


def scope_behind(peer: Peer | None, **scope: Any) -> dict[str, Any]:
    """Return the scope that an application gets on a connection with this peer."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    sent = {"type": "http", "headers": [], **scope}
    answer = with_peer(app, cast("ssl.SSLObject | None", peer))

    async def call() -> None:
        await answer(sent, cast("Any", None), cast("Any", None))

    asyncio.run(call())
    return seen[0]


class Listeners:
    """Who calls with a certificate (PEM), as the two listeners have it."""

    def __init__(self, core: Core, threads: Threads) -> None:
        self.metrics = ServerMetrics()
        keys = KeyAuthentication(core.api_keys, threads, self.metrics)
        hosts = CertifiedHosts(NAMING, core.database, core.clock)
        self._by_key = by_key(keys)
        self._by_certificate = by_certificate(HostAuthentication(hosts, keys, threads, self.metrics))

    def caller(self, pem: bytes | None, *authorizations: str, by_key: bool = False) -> Caller:
        peer = Peer(ssl.PEM_cert_to_DER_cert(pem.decode())) if pem else Peer(None)
        headers = [(b"authorization", text.encode()) for text in authorizations]
        request = Request(scope_behind(peer, headers=headers))

        async def ask() -> Caller:
            return await (self._by_key if by_key else self._by_certificate)(request)

        return asyncio.run(ask())


@pytest.fixture
def listeners(core: Core) -> Iterator[Listeners]:
    with closing(Threads()) as threads:
        yield Listeners(core, threads)


@pytest.fixture
def authority(tmp_path: Path) -> AuthoritySimulator:
    return AuthoritySimulator(tmp_path)


def issue(authority: AuthoritySimulator, core: Core, *uris: str, hours: int = 1) -> bytes:
    until = dt.datetime.fromtimestamp(int(core.clock.now()), dt.UTC) + dt.timedelta(hours=hours)
    return authority.issue("h", uris=uris, until=until).certificate.read_bytes()


def test_the_certificate_of_the_connection_is_in_the_scope_whatever_was_sent(authority: AuthoritySimulator) -> None:
    pem = authority.issue("h", uris=[URI]).certificate.read_bytes()
    forged = {"extensions": {"tls": {"client_cert_chain": ["forged"]}, "other": {}}}
    found = scope_behind(Peer(ssl.PEM_cert_to_DER_cert(pem.decode())), **forged)
    assert ssl.PEM_cert_to_DER_cert(certificates_in(found)[0].decode()) == ssl.PEM_cert_to_DER_cert(pem.decode())
    assert len(certificates_in(found)) == 1
    assert "other" in found["extensions"]


def test_without_a_verified_certificate_there_is_none_in_the_scope(authority: AuthoritySimulator) -> None:
    der = ssl.PEM_cert_to_DER_cert(authority.issue("h", uris=[URI]).certificate.read_text())
    for peer in (None, Peer(None), Peer(der, ssl.CERT_OPTIONAL), Peer(der, ssl.CERT_NONE)):
        assert certificates_in(scope_behind(peer)) == []
    failed = {"client_cert_chain": ["x"], "client_cert_error": "it is not verified"}
    assert certificates_in({"extensions": {"tls": failed}}) == []


def test_a_certificate_is_its_host_until_it_expires(
    core: Core, listeners: Listeners, authority: AuthoritySimulator
) -> None:
    pem = issue(authority, core, URI)
    caller = listeners.caller(pem)
    assert (caller.role, caller.org, caller.host_id) == (Role.HOST, "acme", "laptop-1")
    assert caller.key_id.startswith("x509:")
    assert caller.expires_at == int(core.clock.now()) + 3600
    core.clock.advance(3600)
    with pytest.raises(Unauthenticated, match="has expired"):
        listeners.caller(pem)
    assert b'authentication_failures_total{reason="certificate"} 1.0' in listeners.metrics.expose()[1]


def test_what_names_no_host_or_one_that_may_not_come_is_refused(
    core: Core, listeners: Listeners, authority: AuthoritySimulator
) -> None:
    with pytest.raises(Unauthenticated, match="no client certificate"):
        listeners.caller(None)
    with pytest.raises(Unauthenticated, match="it has 0"):
        listeners.caller(issue(authority, core))
    with pytest.raises(PermissionDenied, match="`globex`"):
        listeners.caller(issue(authority, core, URI.replace("acme", "globex")))
    with pytest.raises(OrgNotFound):
        listeners.caller(issue(authority, core, URI.replace("acme", "initech")))
    DeniedHosts(core.database, core.clock).deny(HostKey("acme", "laptop-1"), "stolen")
    with pytest.raises(HostDenied):
        listeners.caller(issue(authority, core, URI))


def test_a_key_beside_a_certificate_must_be_of_the_same_host(
    core: Core, listeners: Listeners, authority: AuthoritySimulator
) -> None:
    pem = issue(authority, core, URI)
    own, other = (
        core.api_keys.create(core.admin, org="acme", role=Role.HOST, host_id=host_id, description="")
        for host_id in ("laptop-1", "laptop-2")
    )
    both = listeners.caller(pem, f"Bearer {own.secret}")
    assert (both.key_id, both.expires_at) == (own.key_id, int(core.clock.now()) + 3600)
    with pytest.raises(Unauthenticated, match="the API key is not"):
        listeners.caller(pem, f"Bearer {other.secret}")
    for wrong in (["Bearer nonsense"], ["Basic eA=="], [""], [f"Bearer {own.secret}"] * 2):
        with pytest.raises(Unauthenticated):
            listeners.caller(pem, *wrong)
    # A key is no way around the certificate, nor a certificate one where keys are asked for.
    with pytest.raises(Unauthenticated, match="no client certificate"):
        listeners.caller(None, f"Bearer {own.secret}")
    with pytest.raises(Unauthenticated, match="no API key"):
        listeners.caller(pem, by_key=True)
    assert listeners.caller(None, f"Bearer {own.secret}", by_key=True).host_id == "laptop-1"
