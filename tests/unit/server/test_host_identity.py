"""Which host a certificate names: one spelling, one URI, or none."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.errors import AkpolicyError, PermissionDenied, Unauthenticated
from akpolicy_server.access import Role
from akpolicy_server.host_identity import MAX_CERTIFICATE_BYTES, MAX_ID_CHARS, HostNaming, check_path
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN = "hosts.example.com"
NAMING = HostNaming(DOMAIN, "/org/{org}/host/{host_id}", ("acme", "globex"))
URI = f"spiffe://{DOMAIN}/org/acme/host/laptop-1"


def test_a_spiffe_id_names_org_and_host() -> None:
    assert NAMING.names_in(URI) == ("acme", "laptop-1")
    assert NAMING.names_in(URI.replace("acme", "globex")) == ("globex", "laptop-1")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        f"spiffe://{DOMAIN}",
        f"spiffe://{DOMAIN}/",
        f"{URI}/",
        f"{URI}?",
        f"{URI}#x",
        f"{URI}\n",
        f" {URI}",
        URI.replace("spiffe", "SPIFFE"),
        URI.replace("spiffe", "https"),
        URI.replace("hosts.", "HOSTS."),
        URI.replace(DOMAIN, f"{DOMAIN}:443"),
        URI.replace(DOMAIN, f"user@{DOMAIN}"),
        URI.replace(DOMAIN, f"{DOMAIN}."),
        URI.replace(DOMAIN, f"other.{DOMAIN}"),
        URI.replace("laptop-1", "laptop%2D1"),
        URI.replace("laptop-1", "."),
        URI.replace("laptop-1", ".."),
        URI.replace("laptop-1", ""),
        URI.replace("laptop-1", "läptop"),
        URI.replace("laptop-1", "a" * 129),
        URI.replace("laptop-1", "laptop-1/more"),
        URI.replace("/org/", "//org/"),
        URI.replace("/org/", "/ORG/"),
        URI.replace("/org/", "/./org/"),
        URI.replace("acme", "-acme"),
        URI.replace("acme", "a" * 64),
        URI.replace("laptop-1", "a" * MAX_ID_CHARS),
    ],
)
def test_any_other_spelling_names_nobody(uri: str) -> None:
    with pytest.raises(Unauthenticated):
        NAMING.names_in(uri)


def test_an_org_that_certificates_do_not_speak_for_is_refused() -> None:
    with pytest.raises(PermissionDenied, match="`initech`"):
        NAMING.names_in(URI.replace("acme", "initech"))
    assert HostNaming(DOMAIN, "/{org}/{host_id}", ("*",)).names_in(f"spiffe://{DOMAIN}/initech/h") == ("initech", "h")


def test_a_path_without_an_org_is_of_the_one_org() -> None:
    naming = HostNaming(DOMAIN, "/ns/agents/sa/{host_id}", ("acme",))
    assert naming.names_in(f"spiffe://{DOMAIN}/ns/agents/sa/box") == ("acme", "box")
    with pytest.raises(Unauthenticated, match="is not `/ns/agents/sa/"):
        naming.names_in(f"spiffe://{DOMAIN}/ns/other/sa/box")


@given(st.text(max_size=80))
def test_no_text_crashes_or_names_a_host_in_another_way(text: str) -> None:
    uri = f"spiffe://{DOMAIN}/org/acme/host/{text}"
    try:
        org, host_id = NAMING.names_in(uri)
    except AkpolicyError:
        return
    assert f"spiffe://{DOMAIN}/org/{org}/host/{host_id}" == uri


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "org/{host_id}",
        "/{org}",
        "/{host_id}/{host_id}",
        "/{org}/{org}/{host_id}",
        "/x{host_id}",
        "/{other}/{host_id}",
        "/{host_id}/",
        "/../{host_id}",
        "/%41/{host_id}",
        "/{host_id}\n",
        "/a" * MAX_ID_CHARS + "/{host_id}",
    ],
)
def test_a_pattern_that_could_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_path(path)


# --- certificates -----------------------------------------------------------------------------------------------------

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def authority(tmp_path: Path) -> AuthoritySimulator:
    return AuthoritySimulator(tmp_path)


def test_a_certificate_is_a_caller_until_it_expires(authority: AuthoritySimulator) -> None:
    end = NOW + dt.timedelta(hours=1)
    pem = authority.issue("h", uris=[URI], until=end).certificate.read_bytes()
    found = NAMING.host_of(pem, NOW.timestamp())
    assert (found.org, found.host_id, found.expires_at) == ("acme", "laptop-1", end.timestamp())
    caller = found.caller
    assert (caller.role, caller.org, caller.host_id, caller.expires_at) == (
        Role.HOST,
        "acme",
        "laptop-1",
        end.timestamp(),
    )
    assert caller.key_id.startswith("x509:")
    assert NAMING.host_of(pem, end.timestamp() - 1) == found
    with pytest.raises(Unauthenticated, match="has expired"):
        NAMING.host_of(pem, end.timestamp())


@pytest.mark.parametrize(
    ("uris", "said"), [([], "it has 0"), ([URI, URI], "it has 2"), ([URI, "https://example.com/"], "it has 2")]
)
def test_a_certificate_has_exactly_one_uri(authority: AuthoritySimulator, uris: list[str], said: str) -> None:
    pem = authority.issue("h", uris=uris).certificate.read_bytes()
    with pytest.raises(Unauthenticated, match=said):
        NAMING.host_of(pem, NOW.timestamp())


def test_an_authority_is_no_host(authority: AuthoritySimulator) -> None:
    pem = authority.issue("h", uris=[URI], ca=True).certificate.read_bytes()
    with pytest.raises(Unauthenticated, match="authority"):
        NAMING.host_of(pem, NOW.timestamp())
    with pytest.raises(Unauthenticated, match="it has 0"):
        NAMING.host_of(authority.ca_file.read_bytes(), NOW.timestamp())


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"x" * (MAX_CERTIFICATE_BYTES + 1)])
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(Unauthenticated, match=r"cannot be read|bytes"):
        NAMING.host_of(pem, NOW.timestamp())
