"""Where a sidecar is: its Unix socket or its TCP address, and what a channel to it needs.

Rules:

- The socket is plaintext: its file mode and group say who may ask.
- TCP is TLS. Its files are looked at with each call, and the first call after a change opens a new channel; files that
  cannot be used are logged once, and what was read before stays in use.
- A channel has connections of its own (no pool shared with other channels of the process): a new channel really tries
  anew, so that a sidecar that came back answers at once, whatever an older channel still waits for.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from akpolicy.client.channel import Option, ServerEndpoint, channel_options
from akpolicy.clock import SystemClock
from akpolicy.errors import ConfigError
from akpolicy.limits import MAX_MESSAGE_BYTES
from akpolicy.tls_files import ClientTls, read_client_tls
from akpolicy.watched_files import WatchedFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.errors import AkpolicyError

DEFAULT_SOCKET: Final = Path("/run/akpolicy/sidecar.sock")
# `sun_path` of Linux has 108 bytes, one of them for the final zero (unix(7)).
MAX_SOCKET_PATH_BYTES: Final = 107

# Where a sidecar listens: a Unix socket, or TCP.
SidecarAddress = str | Path | ServerEndpoint

OWN_CONNECTION: Final[tuple[Option, ...]] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)

_log = logging.getLogger("akpolicy.client")


class SidecarTarget:
    """What a channel to a sidecar needs: gRPC's `target`, `options`, and the TLS files as they are now."""

    def __init__(self, at: SidecarAddress) -> None:
        """Raise `ConfigError` for a path that cannot be a socket, or TLS files that cannot be used."""
        self.options = sidecar_options(at)
        self.target = at.target if isinstance(at, ServerEndpoint) else socket_target(at)
        self._files: WatchedFiles[ClientTls] | None = None
        if isinstance(at, ServerEndpoint) and at.tls:
            read = partial(read_client_tls, at.tls_files)
            self._files = WatchedFiles(at.tls_files.paths, read, clock=SystemClock(), failed=_warn)
            self._files.load()

    def tls(self) -> ClientTls | None:
        """Return what the TLS files hold, the same object as long as they hold the same; None for plaintext."""
        return self._files.refresh() if self._files else None


def _warn(error: AkpolicyError) -> None:
    _log.warning("changed TLS files cannot be used; what was read before stays in use: %s", error.message)


def socket_target(socket: str | Path) -> str:
    """Return the gRPC target of a socket path; raise `ConfigError` if it cannot be one."""
    path = os.path.abspath(os.fspath(socket))  # noqa: PTH100 - links stay as they are: the socket may be replaced
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES or "\0" in path:
        raise ConfigError(f"`{path}` cannot be a socket: a path has at most {MAX_SOCKET_PATH_BYTES} bytes and no zero")
    # gRPC reads a target as a URI and decodes what is percent-encoded in it.
    return "unix:" + quote(path, safe="/")


def sidecar_options(at: SidecarAddress) -> list[Option]:
    """Return the channel arguments for a sidecar on a socket or behind TCP."""
    if isinstance(at, ServerEndpoint):
        return channel_options(at, OWN_CONNECTION)
    return list(OWN_CONNECTION)


def find_socket(env: Mapping[str, str]) -> Path:
    """Return the socket to use when nobody names one: `AKPOLICY_SOCKET`, else the first that a sidecar has made.

    The places are those that a sidecar chooses by default: /run/akpolicy, the user's runtime directory, the user's
    state directory (XDG Base Directory Specification). If none is there: /run/akpolicy/sidecar.sock.
    """
    if named := env.get("AKPOLICY_SOCKET"):
        return Path(named)
    return next((place for place in _places(env) if place.is_socket()), DEFAULT_SOCKET)


def _places(env: Mapping[str, str]) -> list[Path]:
    places = [DEFAULT_SOCKET]
    if (runtime := env.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        places.append(Path(runtime) / "akpolicy" / "sidecar.sock")
    state = env.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path(env.get("HOME", "/")) / ".local" / "state"
    return [*places, base / "akpolicy" / "run" / "sidecar.sock"]
