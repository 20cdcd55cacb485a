r"""The index: the current document of every scope that an org's hosts get, in one text.

Rules:

- One line a scope, `global` included: `<scope> <epoch> <version> <digest>`, single spaces, each ended by a line feed,
  in the order of the scopes' bytes. There is one spelling of an index, so that its digest names what it says.
- `<digest>` is the hex SHA-256 of the signed payload of the scope's bundle or rollback. Hosts that enforce exactly what
  the index names enforce what the server holds: no mix of old and new (TUF's snapshot role, specification section 4.4).
- An index that differs from another in a few lines can be made from it and these lines (`Index.changed`), in a time in
  which only copying the text and its digest grow with the number of lines.
- A heartbeat names an index by digest and size. The text itself is not signed and not believed before it fits.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from akpolicy.errors import DuplicateField, FieldInvalid, PayloadMalformed
from akpolicy.limits import MAX_INDEX_BYTES, MAX_INDEX_SCOPES, MAX_JSON_INT
from akpolicy.persistent import PersistentMap
from akpolicy.scope import check_scope
from akpolicy.strict_json import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

_LINE: Final = re.compile(r"([!-~]{1,512}) ([1-9][0-9]{0,15}) ([1-9][0-9]{0,15}) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class IndexLine:
    """The current document of one scope; `digest` is hex."""

    scope: str
    epoch: int
    version: int
    digest: str

    def __str__(self) -> str:
        return f"{self.scope} {self.epoch} {self.version} {self.digest}\n"


@dataclass(frozen=True, slots=True)
class IndexChanges:
    """How an index differs from the one with the hex digest `base`: lines of its text, and scopes without any."""

    base: str
    lines: bytes
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """What is current, by scope. `text` is the exact bytes, `digest` their hex SHA-256."""

    lines: PersistentMap[IndexLine, None]
    text: bytes = field(repr=False)
    digest: str

    @property
    def in_order(self) -> list[IndexLine]:
        """The lines in the order of the text."""
        return sorted(self.lines.values(), key=lambda line: line.scope)

    def changes_from(self, base: Index) -> IndexChanges:
        """Return how this index differs from another, at the cost of what does if they share the rest."""
        scopes = sorted(self.lines.differences(base.lines))
        lines = "".join(str(self.lines[scope]) for scope in scopes if scope in self.lines)
        return IndexChanges(
            base.digest, lines.encode("ascii"), tuple(scope for scope in scopes if scope not in self.lines)
        )

    def with_changes(self, changes: IndexChanges) -> Index:
        """Return what the changes make of this index; what they name and is not here is left out.

        Raises `PayloadMalformed`, `FieldInvalid` or `DuplicateField` unless their lines are some of an index.
        """
        lines = parse_lines(changes.lines)
        return self.changed(lines.values(), [scope for scope in changes.gone if scope in self.lines])

    def changed(self, lines: Iterable[IndexLine], gone: Iterable[str]) -> Index:
        """Return the index with these lines, new or instead of others of their scopes, and without those of `gone`."""
        by_scope = {**dict.fromkeys(gone), **{line.scope: line for line in lines}}
        after, pieces, kept = self.lines, list[bytes](), 0
        for scope in sorted(by_scope):
            line = by_scope[scope]
            after = after.without(scope) if line is None else after.put(scope, line)
            start, end = _place(self.text, scope.encode("ascii"))
            pieces += [self.text[kept:start], b"" if line is None else str(line).encode("ascii")]
            kept = end
        text = b"".join([*pieces, self.text[kept:]])
        return Index(after, text, hashlib.sha256(text).hexdigest())


def build_index(lines: Iterable[IndexLine]) -> Index:
    """Return the index of `lines`, one a scope."""
    by_scope = {line.scope: line for line in sorted(lines, key=lambda line: line.scope.encode("ascii"))}
    text = "".join(map(str, by_scope.values())).encode("ascii")
    return Index(PersistentMap.of(by_scope), text, hashlib.sha256(text).hexdigest())


def parse_lines(text: bytes) -> dict[str, IndexLine]:
    """Read some lines of an index, by scope and in their order.

    Raises `PayloadMalformed`, `FieldInvalid` or `DuplicateField` unless they are in their one spelling.
    """
    if len(text) > MAX_INDEX_BYTES:
        msg = f"index has {len(text)} bytes, more than {MAX_INDEX_BYTES}"
        raise PayloadMalformed(msg)
    if text and not text.endswith(b"\n"):
        msg = "index does not end with a line feed"
        raise PayloadMalformed(msg)
    rows = text[:-1].split(b"\n") if text else []
    if len(rows) > MAX_INDEX_SCOPES:
        msg = f"index has {len(rows)} lines, more than {MAX_INDEX_SCOPES}"
        raise PayloadMalformed(msg)
    lines: dict[str, IndexLine] = {}
    before = ""
    for row in rows:
        line = _parse_line(row)
        if line.scope in lines:
            msg = f"index names the scope `{shown(line.scope)}` twice"
            raise DuplicateField(msg)
        if line.scope < before:
            msg = f"index has `{shown(line.scope)}` behind `{shown(before)}`; its lines must be in order"
            raise PayloadMalformed(msg)
        lines[line.scope] = line
        before = line.scope
    return lines


def parse_index(text: bytes) -> Index:
    """Read an index; raise `PayloadMalformed`, `FieldInvalid` or `DuplicateField` unless it is in its one spelling."""
    return Index(PersistentMap.of(parse_lines(text)), text, hashlib.sha256(text).hexdigest())


def _place(text: bytes, scope: bytes) -> tuple[int, int]:
    """Return where the line of a scope begins and ends in the text of an index; both are where it would begin."""
    low, high = 0, len(text)
    while low < high:
        # The line around the middle, of those that begin at `low` or behind and before `high`.
        start = text.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = text.index(b"\n", start) + 1
        name = text[start : text.index(b" ", start)]
        if name == scope:
            return start, end
        low, high = (end, high) if name < scope else (low, start)
    return low, low


def _parse_line(row: bytes) -> IndexLine:
    text = row.decode("ascii", errors="replace")
    match = _LINE.fullmatch(text)
    if match is None:
        msg = f"index has the line `{shown(text)}`; a line is `<scope> <epoch> <version> <digest>`"
        raise PayloadMalformed(msg)
    epoch, version = int(match[2]), int(match[3])
    if max(epoch, version) > MAX_JSON_INT:
        msg = f"index has a number beyond {MAX_JSON_INT}"
        raise FieldInvalid(msg)
    return IndexLine(check_scope(match[1]), epoch, version, match[4])
