"""A file cut window by window is the file cut as a whole."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from akpolicy.engine.tokens import pieces
from akpolicy.engine.windows import WINDOW_BYTES, first_bad_byte, outlines

SNIPPETS = st.sampled_from(
    [
        "permit",
        "(",
        ")",
        "{",
        "[",
        ";",
        ";\n",
        '"',
        "\\",
        "//",
        "/",
        "\n",
        "\r",
        " ",
        "\u00e9",
        "\U0001f512",
        "?p",
        "\0",
    ]
)
TEXTS = st.lists(SNIPPETS, max_size=60).map("".join)


def whole(text: str) -> list[tuple[object, ...]]:
    """Return what a cut of the whole text finds, with offsets from the begin of each policy."""

    def at(offset: int, start: int) -> int:
        return offset if offset < 0 else offset - start

    return [
        (
            text[p.start : p.end],
            (at(p.first, p.start), p.end - p.start, p.line, p.ended, p.depth),
            (at(p.unclosed, p.start), at(p.broken, p.start), at(p.slot, p.start)),
        )
        for p in pieces(text)
    ]


def windowed(text: str, window: int) -> list[tuple[object, ...]]:
    """Return what a cut in windows finds."""
    found: list[tuple[object, ...]] = []
    for body, p in outlines(text.encode(), window=window):
        assert p.start == 0
        found.append((body, (p.first, p.end, p.line, p.ended, p.depth), (p.unclosed, p.broken, p.slot)))
    return found


@given(TEXTS, st.integers(1, 9))
@example('a "x;y" b; // ;\n"', 1)
@example('"\\', 1)
@example('"\\\n;', 2)
def test_no_window_changes_what_is_found(text: str, window: int) -> None:
    assert windowed(text, window) == whole(text)


def test_policies_larger_than_a_window_and_many_small_ones_are_found() -> None:
    large = 'forbid (principal, action, resource) when { "' + "x;\U0001f512" * WINDOW_BYTES + '" == "" };'
    small = "".join(f"// {number} ;\npermit (principal, action, resource);\n" for number in range(50_000))
    text = small + large + small
    found = windowed(text, WINDOW_BYTES)
    assert len(found) == 100_001
    assert found == whole(text)


@given(st.lists(st.binary(max_size=6) | st.just(b"\xf0\x9f\x94\x92"), max_size=4).map(b"".join))
def test_the_first_byte_that_is_not_utf_8_is_the_one_that_a_decoder_names(data: bytes) -> None:
    _assert_same(data)


def test_a_character_between_two_windows_is_not_bad() -> None:
    for cut in range(1, 4):
        start = b"x" * (WINDOW_BYTES - cut)
        _assert_same(start + "\U0001f512".encode() + b"y")
        _assert_same(start + "\U0001f512".encode()[:3] + b"y")
        _assert_same(start + "\U0001f512".encode()[:cut])


def _assert_same(data: bytes) -> None:
    expected = None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        expected = error.start
    assert first_bad_byte(data) == expected
