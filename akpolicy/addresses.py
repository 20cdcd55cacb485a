"""Network addresses as people write them: `host:port` to listen on, `https://host:port` to call.

A host is `localhost`, an IP address or a host name (RFC 1123). Names are never looked up here: only `localhost` and the
addresses of the loopback networks count as "this machine". A URL can hold a password, so a message about one never
repeats it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

MAX_PORT: Final = 65_535

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class SecretValueError(ValueError):
    """A value is wrong and must not be shown."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address: a host name or an IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        return is_loopback(self.host)

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read `127.0.0.1:8180`, `[::1]:0` or `name:443`; raise `ValueError`."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
            msg = f"must be `host:port` with a port up to {MAX_PORT}, such as `127.0.0.1:8180` or `[::1]:8180`"
            raise ValueError(msg)
        if not host:
            msg = f"must name a host; `0.0.0.0:{port}` listens on every IPv4 address"
            raise ValueError(msg)
        if bracketed != (":" in host) or not _is_host(host):
            msg = "must have an IP address or a host name before the port; IPv6 addresses go in brackets"
            raise ValueError(msg)
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """Where the policy server is: `https://host[:port]`, or `http://` for plaintext."""

    secure: bool
    address: HostPort

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.address}"

    @property
    def target(self) -> str:
        """The address as gRPC takes it, `host:port`."""
        return str(self.address)

    @classmethod
    def parse(cls, text: str) -> ServerUrl:
        """Read the URL; raise `SecretValueError` (a URL can hold a password)."""
        parts = _split_url(text)
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            msg = "must be only `https://host:port`, without a path"
            raise SecretValueError(msg)
        port = parts.port if parts.port is not None else _DEFAULT_PORTS[parts.scheme]
        if port == 0:
            msg = "must name a port from 1 on"
            raise SecretValueError(msg)
        return cls(parts.scheme == "https", HostPort(parts.hostname or "", port))


def is_loopback(host: str) -> bool:
    """Whether `host` is `localhost` or an IP address of the loopback network; other names are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_https_url(text: str) -> str:
    """Return `text` if it is an `https://` URL, or an `http://` one of a loopback host; raise `SecretValueError`."""
    parts = _split_url(text)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        msg = "must be `https://` unless the host is this machine"
        raise SecretValueError(msg)
    return text


def _split_url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # checked only when it is asked for
    except ValueError:
        msg = "is not a URL; write `https://host:port`"
        raise SecretValueError(msg) from None
    if parts.scheme not in _DEFAULT_PORTS:
        msg = "must begin with `https://` or `http://`"
        raise SecretValueError(msg)
    if "@" in parts.netloc:
        msg = "must not contain a user name or password"
        raise SecretValueError(msg)
    if not _is_host(parts.hostname or ""):
        msg = "must name a host, such as `https://policy.example.com:8180`"
        raise SecretValueError(msg)
    return parts


def _is_host(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return _HOST_NAME.fullmatch(host) is not None
    return True
