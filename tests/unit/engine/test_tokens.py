"""Tokens and policy outlines: exact on every text, and never in disagreement with Cedar."""

from __future__ import annotations

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.tokens import Kind, head, nesting, pieces, tokenize

_SNIPPETS = st.sampled_from(
    [
        "permit",
        "forbid",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ";",
        '"',
        "\\",
        "//",
        "\n",
        "\r",
        " ",
        "@id",
        "?principal",
        "::",
        "é",
        "\0",
    ]
)
_TEXTS = st.one_of(st.text(max_size=200), st.lists(_SNIPPETS, max_size=60).map("".join))

# Comments and strings that would mislead a cut which does not see them whole.
_COMMENTS = st.sampled_from(["", "// ; } permit", '// "', "// a \\\n", "//// {(", "// \u2028;"])
_STRINGS = st.sampled_from(["a;b", "//", "}", '\\"', "\\\\", "line\nbreak", "?principal", "/* */", "\\u{3b}"])


@given(_TEXTS)
def test_tokens_cover_any_text_but_its_white_space(text: str) -> None:
    position = 0
    for token in tokenize(text):
        assert text[position : token.start].strip() == ""
        assert token.text == text[token.start : token.end]
        assert token.line == 1 + text.count("\n", 0, token.start)
        assert token.end > token.start
        position = token.end
    assert text[position:].strip() == ""


@given(_TEXTS)
def test_pieces_cover_any_text_but_its_white_space(text: str) -> None:
    position = 0
    found = list(pieces(text))
    for piece in found:
        assert text[position : piece.start].strip() == ""
        assert piece.start <= piece.first <= piece.end
        assert piece.line == 1 + text.count("\n", 0, piece.first)
        assert piece.ended == (text[piece.end - 1] == ";" and not piece.is_comment) or not piece.ended
        position = piece.end
    assert text[position:].strip() == ""
    assert all(piece.ended for piece in found[:-1])


@given(_TEXTS)
def test_reading_a_head_never_fails(text: str) -> None:
    for piece in pieces(text):
        assert head(text, piece.first).effect == "" or head(text, piece.first).effect in text


@given(
    st.lists(st.tuples(_COMMENTS, _STRINGS, st.sampled_from(["permit", "forbid"]), _COMMENTS), min_size=1, max_size=5)
)
def test_cedar_counts_as_many_policies_as_pieces(parts: list[tuple[str, str, str, str]]) -> None:
    text = "\n".join(
        f'{before}\n@note("{value}") {effect} {inside}\n(principal, action, resource) when {{ "{value}" == "" }};'
        for before, value, effect, inside in parts
    )

    found = list(pieces(text))

    assert len(cedarpy.PolicySet.from_str(text)) == len(found) == len(parts)
    assert [head(text, piece.first).effect for piece in found] == [effect for _, _, effect, _ in parts]


@pytest.mark.parametrize(
    ("text", "depth"),
    [("", 0), ("(", 1), ("([{}])", 3), ('"((("', 0), ("// (((", 0), ("(]]])(", 1), ("(][", 2), ("Set<Set<Long>>", 2)],
)
def test_nesting_counts_open_brackets_outside_strings_and_comments(text: str, depth: int) -> None:
    assert nesting(text) == depth


def test_a_closing_bracket_of_another_kind_closes_nothing() -> None:
    (piece,) = pieces("(}(}(};")

    assert piece.depth == 3


def test_a_string_without_an_end_is_one_broken_token() -> None:
    kinds = [token.kind for token in tokenize('permit "abc\\"')]

    assert kinds == [Kind.WORD, Kind.BROKEN]


@pytest.mark.parametrize(
    "text",
    ['"' * 200_001, '"\\' + '"\\' * 100_000 + "\n", "/" * 200_000, "(" * 200_000, "\\\n" * 100_000, "@" * 200_000],
)
def test_hostile_texts_are_cut_in_linear_time(text: str) -> None:
    # Quadratic work on 200,000 characters would run into the test's own timeout.
    assert sum(1 for _ in tokenize(text)) > 0
    assert sum(1 for _ in pieces(text)) > 0


def test_annotations_are_read_up_to_the_effect() -> None:
    text = '// @id("no")\n@note("x") @id // between\n("yes") @bare forbid (principal, action, resource);'
    (piece,) = pieces(text)

    found = head(text, piece.first)

    assert (found.id, found.effect) == ("yes", "forbid")
