"""Hosts that are refused by their id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import HostDenied, HostNotDenied, InvalidField, OrgNotFound, TooManyDenials, Unauthenticated
from akpolicy_server import denied_hosts
from akpolicy_server.access import Role
from akpolicy_server.certified_hosts import CertifiedHosts, of_both
from akpolicy_server.denied_hosts import DeniedHosts
from akpolicy_server.host_identity import CertifiedHost, HostNaming
from akpolicy_server.store.hosts import HostKey

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core

HOST = HostKey("acme", "laptop-1")
NAMING = HostNaming("hosts.example.com", "/org/{org}/host/{host_id}", ("*",))


@pytest.fixture
def denied(core: Core) -> DeniedHosts:
    return DeniedHosts(core.database, core.clock)


def certified(org: str = "acme", host_id: str = "laptop-1") -> CertifiedHost:
    return CertifiedHost(org, host_id, "x509:00", 2e9)


def test_a_refused_host_gets_in_by_no_key_and_no_certificate_until_it_is_allowed(
    core: Core, denied: DeniedHosts
) -> None:
    key = core.api_keys.create(core.admin, org="acme", role=Role.HOST, host_id="laptop-1", description="")
    other = core.api_keys.create(core.admin, org="acme", role=Role.HOST, host_id="laptop-2", description="")
    hosts = CertifiedHosts(NAMING, core.database, core.clock)
    first = denied.deny(HOST, "stolen")
    assert (first.reason, denied.deny(HOST, "again")) == ("stolen", first)
    assert denied.all() == [first]
    with pytest.raises(HostDenied):
        core.api_keys.authenticate(key.secret)
    with pytest.raises(HostDenied):
        hosts.admit(certified())
    # Who does not know the secret is not told that the host is refused.
    with pytest.raises(Unauthenticated):
        core.api_keys.authenticate(key.secret[:-4] + "AAAA")
    assert core.api_keys.authenticate(other.secret).host_id == "laptop-2"
    assert hosts.admit(certified("acme", "laptop-2")).host_id == "laptop-2"
    assert hosts.admit(certified("globex")).org == "globex"
    denied.allow(HOST)
    assert core.api_keys.authenticate(key.secret).host_id == "laptop-1"
    assert hosts.admit(certified()).key_id == "x509:00"
    with pytest.raises(HostNotDenied):
        denied.allow(HOST)


def test_what_cannot_be_refused_is_said(core: Core, denied: DeniedHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OrgNotFound):
        denied.deny(HostKey("nowhere", "h"), "")
    with pytest.raises(InvalidField, match="host id"):
        denied.deny(HostKey("acme", "a/b"), "")
    with pytest.raises(InvalidField, match="reason"):
        denied.deny(HOST, "x" * 201)
    monkeypatch.setattr(denied_hosts, "MAX_DENIALS", 1)
    denied.deny(HOST, "")
    with pytest.raises(TooManyDenials):
        denied.deny(HostKey("acme", "laptop-2"), "")
    with pytest.raises(OrgNotFound):
        CertifiedHosts(NAMING, core.database, core.clock).admit(certified("nowhere"))


def test_a_certificate_and_a_key_are_of_one_host(core: Core) -> None:
    made = core.api_keys.create(core.admin, org="acme", role=Role.HOST, host_id="laptop-1", description="")
    key = core.api_keys.authenticate(made.secret)
    both = of_both(certified(), key)
    assert (both.key_id, both.host_id, both.expires_at) == (made.key_id, "laptop-1", 2e9)
    for other in (certified("globex"), certified(host_id="laptop-2")):
        with pytest.raises(Unauthenticated, match="the API key is not"):
            of_both(other, key)
    with pytest.raises(Unauthenticated):
        of_both(certified(), core.publisher_of("acme"))
