"""The list of survivors: mutants that no test tells apart, each with the reason why none should.

An entry has the fields of `Change` (`occurrence` only from 2 on) and a `reason`. It is stale, and has to go, when the
code has no such mutant any more, or when a test kills it after all.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tools.mutation.mutants import Change

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_FIELDS: Final = ("module", "function", "removed", "added")
_TABLE: Final = "survivor"


class ListInvalid(ValueError):
    """The list has an entry that says nothing, or says it twice."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed survivor."""

    change: Change
    reason: str


def read_list(path: Path) -> dict[Change, Entry]:
    """Return the entries of the file by their change; raise `ListInvalid`."""
    with path.open("rb") as file:
        return parse_list(tomllib.load(file))


def parse_list(value: Mapping[str, Any]) -> dict[Change, Entry]:
    """Return the entries of a parsed list by their change; raise `ListInvalid`."""
    entries: dict[Change, Entry] = {}
    for number, table in enumerate(value.get(_TABLE, ()), start=1):
        try:
            module, function, removed, added = (str(table[name]) for name in _FIELDS)
        except KeyError as missing:
            raise ListInvalid(f"entry {number} has no {missing}") from None
        change = Change(module, function, removed, added, int(table.get("occurrence", 1)))
        reason = str(table.get("reason", "")).strip()
        if not reason:
            raise ListInvalid(f"entry {number} ({change.module}, {change.function}) has no reason")
        if change in entries:
            raise ListInvalid(f"entry {number} ({change.module}, {change.function}) is there twice")
        entries[change] = Entry(change, reason)
    return entries


def as_entry(change: Change) -> str:
    """Return an entry to be pasted into the list; its reason is left for somebody to write."""
    lines = [f"[[{_TABLE}]]"]
    lines += [f"{name} = {_quoted(str(getattr(change, name)))}" for name in _FIELDS]
    if change.occurrence > 1:
        lines.append(f"occurrence = {change.occurrence}")
    return "\n".join([*lines, 'reason = ""'])


def _quoted(text: str) -> str:
    """Return a TOML string: as it is, where that can be written."""
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    if "'''" not in text and not text.endswith("'"):
        return f"'''\n{text}'''"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def stale(entries: Iterable[Change], existing: Iterable[Change], killed: Iterable[Change]) -> list[Change]:
    """Return the entries that name no mutant, or one that was killed."""
    there, dead = set(existing), set(killed)
    return [change for change in entries if change not in there or change in dead]
