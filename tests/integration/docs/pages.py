"""The documentation as data: its pages, code blocks, tables and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
PAGES: Final = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    language: str
    text: str


def read(name: str) -> str:
    """Return a page by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of the same level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    found = re.search(rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{level}}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading `{heading}`"
    return found[1]


def blocks(page: str, language: str = "") -> list[Block]:
    """Return the code blocks of a page, in order; those in one language if it is given."""
    found = [Block(match[1], match[2]) for match in _BLOCK.finditer(page)]
    return [block for block in found if language in ("", block.language)]


def prose(page: str) -> str:
    """Return a page without its code blocks."""
    return _BLOCK.sub("", page)


def column(page: str, header: str) -> list[str]:
    """Return the cells of the first column of the table whose first header cell is `header`."""
    rows = [[cell.strip() for cell in match[1].split("|")] for match in _ROW.finditer(page)]
    names = [row[0] for row in rows]
    begin = names.index(header) + 2
    end = next((i for i in range(begin, len(rows) - 1) if set(rows[i + 1][0]) == {"-"}), len(rows))
    return names[begin:end]


def typed(block: Block) -> list[str]:
    """Return the commands of a console block."""
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
