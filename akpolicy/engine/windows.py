"""Policy files cut into policies window by window: their text is never decoded as a whole.

Rules:

- What comes out is what `tokens.pieces` finds in the whole text: a policy that has ended is the same whatever follows,
  so only what has not ended waits for the next window.
- Python takes two or four bytes for each character of a text with a single one beyond Latin-1, such as a dash or an
  emoji. Of a file of 32 MiB that would be 128 MiB; cut into policies, only those that have such a character take more.
- The file must be UTF-8 (`first_bad_byte`).
"""

from __future__ import annotations

import codecs
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from akpolicy.engine.tokens import Piece, pieces
from akpolicy.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW_BYTES: Final = MIB
_UTF_8: Final = "utf-8"


class Outline(NamedTuple):
    """A policy's text, and its place in it: offsets are those in `text`, `line` is that in the file."""

    text: str
    piece: Piece


def outlines(data: bytes, *, window: int = WINDOW_BYTES) -> Iterator[Outline]:
    """Yield every policy of a file in order, and last what follows the final `;` unless it is white space.

    `window` is how many bytes are decoded at once.
    """
    decoder = codecs.getincrementaldecoder(_UTF_8)()
    view, at, text, lines = memoryview(data), 0, "", 0
    is_last = False
    while not is_last:
        # What does not end is looked at a few times only: the window grows with it.
        size = max(window, len(text))
        part = view[at : at + size]
        at += len(part)
        is_last = at == len(data)
        text += decoder.decode(part, is_last)
        done = 0
        for piece in pieces(text):
            if not piece.ended and not is_last:
                break
            yield _outline(text, piece, lines)
            done = piece.end
        lines += text.count("\n", 0, done)
        text = text[done:]


def first_bad_byte(data: bytes) -> int | None:
    """Return the offset of the first byte that is not UTF-8, None if there is none."""
    decoder = codecs.getincrementaldecoder(_UTF_8)()
    view = memoryview(data)
    for at in range(0, len(data), WINDOW_BYTES):
        # What a window before began and this one is to end.
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(view[at : at + WINDOW_BYTES], at + WINDOW_BYTES >= len(data))
        except UnicodeDecodeError as error:
            return at - pending + error.start
    return None


def _outline(text: str, piece: Piece, lines: int) -> Outline:
    def moved(offset: int) -> int:
        return offset if offset < 0 else offset - piece.start

    own = replace(
        piece,
        start=0,
        first=moved(piece.first),
        end=moved(piece.end),
        line=piece.line + lines,
        unclosed=moved(piece.unclosed),
        broken=moved(piece.broken),
        slot=moved(piece.slot),
    )
    return Outline(text[piece.start : piece.end], own)
