"""The sidecar's Unix socket: where it is, and a channel to it.

Rules:

- The socket is plaintext: its file mode and group say who may ask.
- A channel has connections of its own (no pool shared with other channels of the process): a new channel really tries
  anew, so that a sidecar that came back answers at once, whatever an older channel still waits for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from akpolicy.client.channel import Option, ServerEndpoint, channel_options
from akpolicy.errors import ConfigError
from akpolicy.limits import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SOCKET: Final = Path("/run/akpolicy/sidecar.sock")
# `sun_path` of Linux has 108 bytes, one of them for the final zero (unix(7)).
MAX_SOCKET_PATH_BYTES: Final = 107

# Where a sidecar listens: a Unix socket, or TCP.
SidecarAddress = str | Path | ServerEndpoint

OWN_CONNECTION: Final[tuple[Option, ...]] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


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
