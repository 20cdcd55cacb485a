"""What is enforced before a start, and how tests spoil the files of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy_sidecar.state import ScopeState
    from tests.simulators.host import HostSimulator


PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


def kept(host: HostSimulator, scope: str = "global") -> ScopeState:
    return host.directory.state.scopes[scope]


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def edit(host: HostSimulator, **changes: Any) -> None:
    """Change the state on disk as somebody could who can compute its digest."""
    host.directory.commit(host.directory.state.model_copy(update=changes))
