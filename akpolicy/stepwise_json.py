"""Strict JSON with one long list, read element by element: there is never a second copy of all of it.

Rules:

- The rules are those of `strict_json`, to the letter: what that refuses is refused with the same error, which is got
  from there. Only a text with several faults may have another of them named.
- Text is decoded in windows. A value is complete only if what follows it is seen, so that none ends with its window.
- The long list is the value of a field of the outermost object. A field of that name which is no list is an ordinary
  value, and so is the list of a field whose name comes a second time, which is an error.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import PayloadMalformed
from akpolicy.limits import KIB
from akpolicy.strict_json import (
    DOCUMENT_LIMITS,
    check_structure,
    decoder,
    has_surrogate_escapes,
    load_object,
    object_of,
    refuse_lone_surrogates,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.strict_json import JsonLimits

WINDOW_BYTES: Final = 256 * KIB
# How many elements are handed over at once: one step over ten thousands would stop every other thread meanwhile.
ELEMENTS_A_STEP: Final = 100

_BLANK: Final = re.compile(r"[ \t\r\n]*")


class _NotJson(Exception):
    """It is no JSON object; `load_object` says what is wrong with it."""


def load_with_list(
    data: bytes,
    field: str,
    take: Callable[[list[Any]], None],
    limits: JsonLimits = DOCUMENT_LIMITS,
    *,
    window: int = WINDOW_BYTES,
) -> dict[str, Any]:
    """Parse `data` as one JSON object, and return it with an empty list as its `field` if that is a list.

    `take` gets the elements of that list, up to `ELEMENTS_A_STEP` at once, before all is known to be well-formed.
    `window` is how many bytes are decoded at once. Raises what `strict_json.load_object` raises, and what `take`
    raises.
    """
    check_structure(data, limits)
    try:
        return object_of(limits, _Reader(data, limits, window).pairs(field, take))
    except (_NotJson, UnicodeDecodeError):
        load_object(data, limits)
        # Both must agree that it is one.
        raise PayloadMalformed("payload is not JSON") from None


class _Reader:
    """A place in a text, of which the next part is decoded."""

    def __init__(self, data: bytes, limits: JsonLimits, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._data = memoryview(data)
        self._scan = decoder(limits).raw_decode
        self._may_have_surrogates = has_surrogate_escapes(data)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._window = ""
        self._at = 0
        # How much of the data is decoded.
        self._decoded = 0

    def pairs(self, field: str, take: Callable[[list[Any]], None]) -> list[tuple[str, Any]]:
        """Return the fields of the object, but for what `take` gets."""
        pairs: list[tuple[str, Any]] = []
        # Looking for it among all names each time would be quadratic.
        is_first = True
        self._expect("{")
        while not (not pairs and self._next() == "}"):
            # Only a string: any other value would be judged as a value first.
            if self._next() != '"':
                raise _NotJson
            name = self._value()
            self._expect(":")
            if name == field and is_first and self._next() == "[":
                self._elements(take)
                pairs.append((name, []))
            else:
                pairs.append((name, self._value()))
            is_first = is_first and name != field
            if self._next() == "}":
                break
            self._expect(",")
        self._expect("}")
        if self._next():
            raise _NotJson
        return pairs

    def _elements(self, take: Callable[[list[Any]], None]) -> None:
        self._expect("[")
        if self._next() == "]":
            self._expect("]")
            return
        step: list[Any] = []
        while True:
            step.append(self._value())
            ended = self._next() == "]"
            if ended or len(step) == ELEMENTS_A_STEP:
                take(step)
                step = []
            self._expect("]" if ended else ",")
            if ended:
                return

    def _value(self) -> Any:  # noqa: ANN401 - whatever JSON can say
        self._next()
        while True:
            try:
                value, end = self._scan(self._window, self._at)
            except json.JSONDecodeError:
                end = len(self._window)
            else:
                end = self._past_blank(end)
            if end < len(self._window):
                self._at = end
                if self._may_have_surrogates:
                    refuse_lone_surrogates(value)
                return value
            # It may go on behind the window; no value ends with the text.
            if not self._decode_more():
                raise _NotJson

    def _expect(self, char: str) -> None:
        if self._next() != char:
            raise _NotJson
        self._at += 1

    def _next(self) -> str:
        """Go to the next character that is not blank, and return it; "" at the end."""
        while True:
            self._at = self._past_blank(self._at)
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._decode_more():
                return ""

    def _past_blank(self, at: int) -> int:
        found = _BLANK.match(self._window, at)
        return at if found is None else found.end()

    def _decode_more(self) -> bool:
        """Drop what was read, append as much as is left or a window has, and return whether there was more."""
        kept = self._window[self._at :]
        size = max(self._window_bytes, len(kept))
        piece = self._data[self._decoded : self._decoded + size]
        if not piece:
            return False
        self._decoded += len(piece)
        is_last = self._decoded == len(self._data)
        self._window, self._at = kept + self._decoder.decode(piece, is_last), 0
        return True
