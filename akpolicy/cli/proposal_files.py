"""Proposal files on an operator's disk.

Rules:

- They are read from wherever they came: a shared directory, a memory stick. They hold no secret.
- A new one never replaces a file: it could have signatures. Signatures are added in place, durably and all at once;
  whoever could read the file before still can.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.errors import CacheError, UsageError

if TYPE_CHECKING:
    from akpolicy.proposal import Proposal


_READ_WRITE: Final = 0o666


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return a whole file of at most `max_bytes`; raise `UsageError`."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    if len(data) > max_bytes:
        raise UsageError(f"`{path}` has more than {max_bytes} bytes; is it the right file?")
    return data


def read_proposal(path: Path) -> Proposal:
    """Read a proposal; raise `UsageError` for a file that cannot be read, or what is wrong with its content."""
    from akpolicy.proposal import MAX_PROPOSAL_BYTES, parse_proposal

    return parse_proposal(read_bytes(path, MAX_PROPOSAL_BYTES))


def require_bundle(path: Path, proposal: Proposal) -> None:
    """Raise `UsageError` if the proposal is a root's."""
    if proposal.is_root:
        raise UsageError(
            f"`{path}` is the proposal of a root; `akpolicy root sign` and `akpolicy root publish` take it"
        )


def require_root(path: Path, proposal: Proposal) -> None:
    """Raise `UsageError` if the proposal is a bundle's."""
    if not proposal.is_root:
        raise UsageError(
            f"`{path}` is the proposal of a bundle; `akpolicy policy sign` and `policy publish --envelope` take it"
        )


def check_new(path: Path) -> None:
    """Raise `UsageError` if there is such a file already, or no directory for it."""
    if not path.parent.is_dir():
        raise UsageError(f"`{path.parent}` is no directory; make it, or name another file")
    if path.exists() or path.is_symlink():
        raise UsageError(f"`{path}` exists and may have signatures; name another file, or remove it")


def write_new(path: Path, proposal: Proposal) -> None:
    """Write a proposal to a new file; raise `UsageError`."""
    from akpolicy.durable import write_new_file

    check_new(path)
    try:
        write_new_file(path, proposal.to_bytes())
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from error


def rewrite(path: Path, proposal: Proposal) -> None:
    """Replace a proposal by one with more signatures; raise `UsageError` with the old file in place."""
    from akpolicy.durable import write_atomic

    # A link stays a link: its target is what others read.
    target = path.resolve()
    try:
        mode = stat.S_IMODE(target.stat().st_mode) & _READ_WRITE
        write_atomic(target, proposal.to_bytes())
        target.chmod(mode)
    except CacheError as error:
        raise UsageError(error.message) from error
    except OSError as error:
        raise UsageError(f"cannot give `{target}` the mode that it had: {error.strerror}") from error
