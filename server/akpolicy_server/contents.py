"""Stored content, read as what the server needs of it. It was judged before it was stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.bundle import parse_content
from akpolicy.engine.source import PolicyText

if TYPE_CHECKING:
    from akpolicy.bundle import PolicyEntry


def policies_in(blob: bytes, source: str = "") -> list[PolicyText]:
    """Return the policies of content, with `source` as where they are from; raise a payload error."""
    policies: list[PolicyText] = []

    def take(entries: list[PolicyEntry]) -> None:
        policies.extend(PolicyText(entry.id, entry.text, source) for entry in entries)

    parse_content(blob, take)
    return policies


def schema_in(blob: bytes) -> str | None:
    """Return the schema that content brings, None for none; raise a payload error."""
    # Parsing megabytes is for those that may have one: a name in JSON can only be written like this, or escaped.
    if b'"schema"' not in blob and b"\\u" not in blob:
        return None
    return parse_content(blob, lambda _: None).schema_text
