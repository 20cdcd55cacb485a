"""Where in a TOML file a key stands, so that a mistake can be shown with its line.

The text is cut into statements: the fewest lines, from where the last one ended, that are TOML on their own. A header
(`[table]`, `[[array]]`) is one, a key with its value is one, even over several lines. Each statement goes through the
standard parser by itself, which yields the keys it sets; they are noted with the line the statement begins on. So no
second TOML grammar is kept here. A key inside an inline table or array has the line of the whole value.
"""

from __future__ import annotations

import tomllib
from typing import Final

# A value over more lines than this is not looked into; keys behind it are found at their table's line at best.
MAX_STATEMENT_LINES: Final = 400

Path = tuple[str | int, ...]


class LineIndex:
    """The lines of a valid TOML text's keys, counted from 1."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}
        self._prefix: Path = ()
        for line, statement in _statements(text):
            self._note(line, statement)

    def find(self, path: Path) -> int:
        """Return the line of `path`, or of its nearest known parent; 1 if nothing of it is in the text."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return 1

    def _note(self, line: int, statement: str) -> None:
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            self._prefix = self._enter(parsed)
            self._remember(self._prefix, line)
        else:
            for path in _paths(parsed):
                self._remember((*self._prefix, *path), line)

    def _enter(self, header: dict[str, object]) -> Path:
        """Return the path that a header opens; each `[[array]]` header opens the next element."""
        path: Path = ()
        value: object = header
        while isinstance(value, dict) and value:
            ((name, value),) = value.items()
            path = self._current((*path, name))
        if isinstance(value, list):
            path = self._unnumbered(path)
            number = self._tables.get(path, -1) + 1
            self._tables[path] = number
            path = (*path, number)
        return path

    def _current(self, path: Path) -> Path:
        """Below an array of tables, a name means its newest element."""
        return (*path, self._tables[path]) if path in self._tables else path

    def _unnumbered(self, path: Path) -> Path:
        return path[:-1] if path and isinstance(path[-1], int) else path

    def _remember(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)


def _statements(text: str) -> list[tuple[int, str]]:
    """Return each statement of `text` with the line it begins on; empty lines and comments are left out."""
    found = []
    pending: list[str] = []
    start = 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not pending:
            start = number
            if line.strip() == "" or line.lstrip().startswith("#"):
                continue
        pending.append(line)
        statement = "\n".join(pending)
        if _parses(statement):
            found.append((start, statement))
            pending = []
        elif len(pending) > MAX_STATEMENT_LINES:
            pending = []
    return found


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _paths(value: object) -> list[Path]:
    """Return the path of every key below `value`, array elements included."""
    if isinstance(value, dict):
        children: list[tuple[str | int, object]] = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        return []
    return [path for name, child in children for path in ((name,), *((name, *rest) for rest in _paths(child)))]
