"""Policies in Cedar's usual layout.

Rules:

- Cedar's own formatter does the work; its result is believed only if it has the same policies: the same heads and
  conditions, annotations included, as Cedar reads them, and the same comments.
- Text that could crash the parser is refused before (`tokens`, `limits`).
"""

from __future__ import annotations

from collections import Counter

import cedarpy

from akpolicy.engine.limits import MAX_BRACKET_DEPTH
from akpolicy.engine.tokens import Kind, pieces, tokenize
from akpolicy.errors import PolicyParseError, PolicyTooDeep


def formatted(text: str, source: str, *, line_width: int, indent: int) -> str:
    """Return `text` laid out; raise `PolicyParseError` or `PolicyTooDeep` for what cannot be."""
    for piece in pieces(text):
        if piece.depth > MAX_BRACKET_DEPTH:
            message = f"nests brackets more than {MAX_BRACKET_DEPTH} deep, which is the limit"
            raise PolicyTooDeep(message, source=source, line=piece.line)
    try:
        result = cedarpy.format_policies(text, line_width, indent).rstrip("\n") + "\n"
        same = cedarpy.policies_to_json_str(text) == cedarpy.policies_to_json_str(result)
    except ValueError as error:
        raise PolicyParseError(f"Cedar cannot lay this out: {error}", source=source) from error
    if not same or _comments(text) != _comments(result):
        message = "Cedar's formatter would change what is written here, so it is left as it is"
        raise PolicyParseError(message, source=source)
    return result


def _comments(text: str) -> Counter[str]:
    return Counter(token.text.rstrip() for token in tokenize(text) if token.kind is Kind.COMMENT)
