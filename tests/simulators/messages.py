"""What the text of every refusal must be like, whatever it says."""

from __future__ import annotations

MAX_CHARS = 700


def check_text(text: str) -> None:
    """Assert that the text of an error is short, printable, says something, and ends without a full stop."""
    assert text.isprintable(), text
    assert 0 < len(text) < MAX_CHARS
    assert not text.endswith(".")
    # What is left of an error that was raised without a message.
    assert not text.lower().endswith(": none"), text
    assert text.lower() != "none"
