"""Policy files as an operator names them.

Rules:

- A directory stands for its `*.cedar` files, also in directories below it, in the order of their names. `-` is
  standard input.
- Together the files have at most the size that a scope's policies may have.
- A file that cannot be read is a `UsageError`; what its content is worth is judged elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.cli.rewritten_files import RewrittenFile, require_distinct, shown_path
from akpolicy.errors import PolicyTooLarge, UsageError
from akpolicy.limits import MAX_CONTENT_BYTES

if TYPE_CHECKING:
    from akpolicy.engine.files import PolicyFile

STDIN: Final = Path("-")
MAX_FILES: Final = 10_000


def read_policy_files(paths: Sequence[Path]) -> list[PolicyFile]:
    """Return the named files.

    Raises:
        UsageError: a file that is missing, unreadable or named twice, a directory without policies, too many files.
        PolicyTooLarge: more bytes than a scope may have.

    """
    return _files(paths, _read)


def read_rewritten_files(paths: Sequence[Path]) -> list[tuple[RewrittenFile, PolicyFile]]:
    """Return the named files, each also as what can be replaced; raise as `read_policy_files` does.

    Raises `UsageError` too for what must not be replaced (`akpolicy.cli.rewritten_files`).
    """
    found: list[RewrittenFile] = []

    def read(path: Path, limit: int) -> bytes:
        found.append(RewrittenFile.read(path, limit))
        return found[-1].data

    files = _files(paths, read)
    require_distinct(found)
    return list(zip(found, files, strict=True))


def _files(paths: Sequence[Path], read: Callable[[Path, int], bytes]) -> list[PolicyFile]:
    """Return what `read` returns for each file, given the number of bytes that are left and one more."""
    from akpolicy.engine.files import PolicyFile

    names = list(_expanded(paths))
    if len(names) > MAX_FILES:
        raise UsageError(f"{len(names)} files; the limit is {MAX_FILES}: join some")
    files: list[PolicyFile] = []
    left = MAX_CONTENT_BYTES
    seen: set[Path] = set()
    for path in names:
        if path in seen:
            raise UsageError(f"`{shown_path(path)}` is named twice")
        seen.add(path)
        data = read(path, left + 1)
        left -= len(data)
        # The name goes into messages; a file below a directory may have one that is no text.
        name = "stdin" if path == STDIN else shown_path(path)
        if left < 0:
            raise PolicyTooLarge(f"the files have more than {MAX_CONTENT_BYTES} bytes in total", source=name)
        files.append(PolicyFile(name, data))
    return files


def _expanded(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path == STDIN or not path.is_dir():
            yield path
            continue
        found = sorted(path.rglob("*.cedar"))
        if not found:
            raise UsageError(f"the directory `{shown_path(path)}` has no *.cedar file")
        yield from found


def _read(path: Path, limit: int) -> bytes:
    if path == STDIN:
        if sys.stdin is None:  # the descriptor was closed when the program began
            raise UsageError("standard input is closed; name a file")
        return sys.stdin.buffer.read(limit)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UsageError(f"cannot read `{shown_path(path)}`: {error.strerror}") from error
