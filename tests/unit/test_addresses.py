"""Addresses: what is read, what is refused, and what counts as this machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.addresses import MAX_PORT, HostPort, SecretValueError, ServerUrl, check_https_url, is_loopback


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8180", "127.0.0.1", 8180),
        ("[::1]:0", "::1", 0),
        ("policy.example.com:65535", "policy.example.com", 65535),
    ],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    address = HostPort.parse(text)
    assert address == HostPort(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8180",
        ":8180",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "a:b",
        "::1:80",
        "[::1]",
        "[x]:1",
        "[127.0.0.1]:1",
        "a b:1",
        "127.0.0.1:\u0661",
        "-a:1",
        "http://x:1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        HostPort.parse(text)


@given(st.ip_addresses(), st.integers(0, MAX_PORT))
def test_every_ip_address_survives_a_round_trip(host: object, port: int) -> None:
    address = HostPort(str(host), port)
    assert HostPort.parse(str(address)) == address


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_hosts_are_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "example.com", "", "127.0.0.1.nip.io"]
)
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("text", "secure", "target"),
    [
        ("https://policy.example.com", True, "policy.example.com:443"),
        ("https://policy.example.com:8180/", True, "policy.example.com:8180"),
        ("http://127.0.0.1:8180", False, "127.0.0.1:8180"),
        ("http://[::1]:1", False, "[::1]:1"),
    ],
)
def test_a_server_url_is_read(text: str, secure: bool, target: str) -> None:
    url = ServerUrl.parse(text)
    assert (url.secure, url.target) == (secure, target)
    assert ServerUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "policy.example.com",
        "ftp://a",
        "https://",
        "https://:1",
        "https://a:0",
        "https://a:99999",
        "https://a:x",
        "https://a/path",
        "https://a?q",
        "https://a#f",
        "https://u:hunter2@a",
        "https://a b",
        "https://[::1",
    ],
)
def test_what_is_no_server_url_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(SecretValueError) as caught:
        ServerUrl.parse(text)
    assert "hunter2" not in str(caught.value)


def test_plaintext_urls_are_for_this_machine_alone() -> None:
    assert check_https_url("http://localhost:1/keys") == "http://localhost:1/keys"
    assert check_https_url("https://example.com/keys") == "https://example.com/keys"
    with pytest.raises(SecretValueError, match="https://"):
        check_https_url("http://example.com/keys")
