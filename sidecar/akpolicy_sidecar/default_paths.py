"""Where the sidecar keeps its files and its socket when the settings do not say.

State: /var/lib/akpolicy where this user can write there, else the user's own state directory (XDG Base Directory
Specification 0.8). Socket: the runtime directory that systemd made for this service, else /run/akpolicy, else the
user's own runtime directory, else a directory beside the state. The environment and the file system are only looked
at; nothing is created.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_STATE_DIR: Final = Path("/var/lib/akpolicy")
SYSTEM_RUNTIME_DIR: Final = Path("/run/akpolicy")
SOCKET_NAME: Final = "sidecar.sock"
AUDIT_NAME: Final = "audit.jsonl"
_DIRECTORY: Final = "akpolicy"


def default_state_dir(env: Mapping[str, str], *, system_dir: Path = SYSTEM_STATE_DIR) -> Path:
    """Return the directory for the cache and the audit log."""
    if _is_usable(system_dir):
        return system_dir
    base = _absolute(env, "XDG_STATE_HOME") or _home(env) / ".local" / "state"
    return base / _DIRECTORY


def default_socket(env: Mapping[str, str], state_dir: Path, *, system_dir: Path = SYSTEM_RUNTIME_DIR) -> Path:
    """Return the path of the socket that runtimes ask on."""
    # systemd separates several runtime directories with colons; the first is the service's own.
    given = env.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given) / SOCKET_NAME
    if _is_usable(system_dir):
        return system_dir / SOCKET_NAME
    user_dir = _absolute(env, "XDG_RUNTIME_DIR")
    return (user_dir / _DIRECTORY if user_dir else state_dir / "run") / SOCKET_NAME


def _is_usable(directory: Path) -> bool:
    """Whether this user can write into `directory`, or create it in its parent."""
    probe = directory if directory.exists() else directory.parent
    return probe.is_dir() and os.access(probe, os.W_OK | os.X_OK)


def _absolute(env: Mapping[str, str], name: str) -> Path | None:
    """Return a directory from the environment; relative ones do not count (XDG Base Directory Specification)."""
    text = env.get(name, "")
    return Path(text) if text.startswith("/") else None


def _home(env: Mapping[str, str]) -> Path:
    return _absolute(env, "HOME") or Path.home()
