"""Strict JSON: what goes out comes in again, and there is one way to read a text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from akpolicy.errors import AkpolicyError, FieldInvalid, PayloadMalformed
from akpolicy.limits import MAX_JSON_INT
from akpolicy.strict_json import MAX_DEPTH, MAX_OBJECT_FIELDS, MAX_SHOWN_CHARS, Document, dump, load, load_object, shown

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
INTEGERS = st.integers(-MAX_JSON_INT, MAX_JSON_INT)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)


class Example(Document):
    name: str
    count: int
    flag: bool = False
    more: list[int] = Field(default_factory=list)


@given(OBJECTS)
def test_what_is_dumped_is_loaded_again(value: dict[str, object]) -> None:
    assert load_object(dump(value)) == value


@given(OBJECTS)
def test_escapes_and_white_space_do_not_matter(value: dict[str, object]) -> None:
    assert load_object(json.dumps(value, indent=3, ensure_ascii=True).encode()) == value


@given(TEXT, INTEGERS, st.booleans(), st.lists(INTEGERS))
def test_a_document_comes_back_as_it_went(name: str, count: int, flag: bool, more: list[int]) -> None:
    document = Example(name=name, count=count, flag=flag, more=more)
    assert load(document.to_bytes(), Example) == document


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_typed_error(data: bytes) -> None:
    try:
        value = load_object(data)
    except AkpolicyError:
        return
    assert isinstance(value, dict)


@given(st.text(st.sampled_from('{}[]",:\\ud80c1-e.tn '), max_size=40))
def test_any_json_like_text_reads_as_the_standard_library_reads_it_or_is_refused(text: str) -> None:
    try:
        value = load_object(text.encode())
    except AkpolicyError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize("number", [MAX_JSON_INT, -MAX_JSON_INT, 0])
def test_integers_up_to_the_limit_are_read_exactly(number: int) -> None:
    assert load_object(b'{"a":%d}' % number) == {"a": number}
    with pytest.raises(FieldInvalid):
        load_object(b'{"a":%d}' % (number + (1 if number > 0 else -1) * (MAX_JSON_INT + 1)))


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert load_object(b'{"a":"' + b'[{\\"' * 5000 + b'"}') == {"a": '[{"' * 5000}


def test_nesting_is_bounded() -> None:
    fits = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    load_object(fits)
    with pytest.raises(PayloadMalformed):
        load_object(b'{"a":[' + fits + b"]}")


def test_the_number_of_fields_is_bounded() -> None:
    fields = {str(i): 0 for i in range(MAX_OBJECT_FIELDS)}
    load_object(dump(fields))
    with pytest.raises(FieldInvalid):
        load_object(dump({**fields, "one more": 0}))


def test_a_surrogate_pair_is_one_character() -> None:
    assert load_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    assert load_object(b'{"a":"\\\\ud83d"}') == {"a": "\\ud83d"}


@given(st.text())
def test_what_a_message_quotes_is_short_and_printable(text: str) -> None:
    quoted = shown(text)
    assert quoted.isprintable()
    assert quoted.encode("utf-8").decode("utf-8") == quoted
    assert len(quoted) <= (MAX_SHOWN_CHARS + 3) * len("\\U0010ffff")
    if text.isprintable() and len(text) <= MAX_SHOWN_CHARS:
        assert quoted == text
