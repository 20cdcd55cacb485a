"""Policy files as an operator names them.

Rules:

- A directory stands for its `*.cedar` files, also in directories below it, in the order of their names. `-` is
  standard input.
- Together the files have at most the size that a scope's policies may have.
- A file that cannot be read is a `UsageError`; what its content is worth is judged elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
    from akpolicy.engine.files import PolicyFile

    names = list(_expanded(paths))
    if len(names) > MAX_FILES:
        raise UsageError(f"{len(names)} files; the limit is {MAX_FILES}: join some")
    files: list[PolicyFile] = []
    left = MAX_CONTENT_BYTES
    seen: set[Path] = set()
    for path in names:
        if path in seen:
            raise UsageError(f"`{path}` is named twice")
        seen.add(path)
        data = _read(path, left + 1)
        left -= len(data)
        if left < 0:
            raise PolicyTooLarge(f"the files have more than {MAX_CONTENT_BYTES} bytes in total", source=str(path))
        # The name goes into messages; a file below a directory may have one that is no text.
        name = "stdin" if path == STDIN else os.fsencode(path).decode("utf-8", "replace")
        files.append(PolicyFile(name, data))
    return files


def _expanded(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path == STDIN or not path.is_dir():
            yield path
            continue
        found = sorted(path.rglob("*.cedar"))
        if not found:
            raise UsageError(f"the directory `{path}` has no *.cedar file")
        yield from found


def _read(path: Path, limit: int) -> bytes:
    if path == STDIN:
        return sys.stdin.buffer.read(limit)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
