"""Strict JSON: what goes out comes in again, and there is one way to read a text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from akpolicy.errors import (
    AkpolicyError,
    DuplicateField,
    FieldInvalid,
    MissingField,
    PayloadMalformed,
    PayloadNotUtf8,
    UnknownField,
)
from akpolicy.limits import MAX_JSON_INT
from akpolicy.strict_json import (
    MAX_DEPTH,
    MAX_OBJECT_FIELDS,
    MAX_SHOWN_CHARS,
    MAX_STRUCTURE_BYTES,
    Document,
    JsonLimits,
    dump,
    load,
    load_object,
    shown,
)

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


def test_a_document_is_compact_utf_8_with_the_names_of_the_format_and_without_defaults() -> None:
    class Aliased(Example):
        kind: str = Field("none", alias="class")

    assert Example(name="\u00fc", count=1).to_bytes() == '{"name":"\u00fc","count":1}'.encode()
    assert load(b'{"name":"n","count":1,"class":"c"}', Aliased).to_bytes() == b'{"name":"n","count":1,"class":"c"}'


def test_a_document_has_no_number_that_is_none() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"x": float("nan")})


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b'{"name":"\xff"}', PayloadNotUtf8, "payload is not UTF-8 at byte 9"),
        (b'{"name":"\x00"}', PayloadNotUtf8, "payload has NUL bytes, it is not UTF-8 text"),
        (b'{"name":"\\ud800"}', PayloadNotUtf8, "payload has a lone surrogate"),
        (b'{"name":}', PayloadMalformed, "payload is not JSON: Expecting value at line 1 column 9"),
        (b'["name"]', PayloadMalformed, "payload is not a JSON object"),
        (b'{"n":1,"m":{"b":2,"a":1,"a":3}}', DuplicateField, "payload names the field `a` twice"),
        (b'{"name":1.5}', FieldInvalid, "payload has the number `1.5`; only integers are allowed"),
        (b'{"name":NaN}', FieldInvalid, "payload has the number `NaN`; only integers are allowed"),
        (b'{"name":9007199254740992}', FieldInvalid, "payload has an integer beyond 9007199254740991"),
        (b'{"name":"n"}', MissingField, "example lacks the field `count`"),
        (b'{"name":"n","count":1,"x":0}', UnknownField, "example has the unknown field `x`"),
        (
            b'{"name":"n","count":"1"}',
            FieldInvalid,
            "example field `count` is invalid: input should be a valid integer",
        ),
        (b'{"name":"n","count":1,"more":[1,"2"]}', FieldInvalid, "example field `more.1` is invalid: input should be "),
    ],
)
def test_it_is_said_what_is_wrong_and_where(data: bytes, error: type[AkpolicyError], says: str) -> None:
    with pytest.raises(error) as caught:
        load(data, Example)
    assert type(caught.value) is error
    assert caught.value.message.startswith(says)


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
    for kind in (b"[]", b"{}"):
        fits = (b'{"a":' if kind == b"{}" else b"[") * (MAX_DEPTH - 1)
        ends = (b"}" if kind == b"{}" else b"]") * (MAX_DEPTH - 1)
        load_object(b'{"a":' + fits + b"1" + ends + b"}")
        with pytest.raises(PayloadMalformed, match=f"nested more than {MAX_DEPTH} deep"):
            load_object(b'{"a":' + fits + kind + ends + b"}")


def test_what_was_closed_is_left() -> None:
    opened = b'{"a":' + b"[" * (MAX_DEPTH - 2)
    load_object(opened + b"[],[],[]" + b"]" * (MAX_DEPTH - 2) + b"}")
    with pytest.raises(PayloadMalformed, match="nested"):
        load_object(opened + b"[],[[]]" + b"]" * (MAX_DEPTH - 2) + b"}")


def test_a_rule_over_several_fields_is_of_the_whole_document() -> None:
    class Even(Example):
        @model_validator(mode="after")
        def _consistent(self) -> Even:
            if self.count % 2:
                msg = "A count must be even"
                raise ValueError(msg)
            return self

    with pytest.raises(FieldInvalid) as caught:
        load(b'{"name":"n","count":1}', Even)
    assert caught.value.message == "even field `(document)` is invalid: a count must be even"


def test_the_number_of_fields_is_bounded() -> None:
    fields = {str(i): 0 for i in range(MAX_OBJECT_FIELDS)}
    load_object(dump(fields))
    with pytest.raises(FieldInvalid, match=f"an object with {MAX_OBJECT_FIELDS + 1} fields, more than"):
        load_object(dump({**fields, "one more": 0}))


def test_what_lies_outside_of_strings_is_bounded() -> None:
    # `{:[` and `]}`, and two bytes a number.
    numbers = ["1"] * ((MAX_STRUCTURE_BYTES - 4) // 2)
    load_object(f'{{"{"a" * 1000}": [{" ,".join(numbers)}]}}'.encode())
    with pytest.raises(PayloadMalformed, match=f"more than {MAX_STRUCTURE_BYTES}"):
        load_object(f'{{"a":[{",".join([*numbers, "1"])}]}}'.encode())


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


def test_a_long_text_is_quoted_up_to_its_limit() -> None:
    assert shown("a" * MAX_SHOWN_CHARS) == "a" * MAX_SHOWN_CHARS
    assert shown("a" * (MAX_SHOWN_CHARS + 1)) == "a" * MAX_SHOWN_CHARS + "..."
    assert shown("abc\x1b", 4) == "abc\\x1b"
    assert shown("abcd\x1b", 4) == "abcd..."


def test_limits_of_a_host_s_own_files_hold_for_a_whole_document() -> None:
    class Fields(Document):
        first: int
        second: int

    data = b'{"first":1,"second":2}'

    assert load(data, Fields, JsonLimits(100, 2)).second == 2
    with pytest.raises(FieldInvalid, match="2 fields, more than 1"):
        load(data, Fields, JsonLimits(100, 1))
    with pytest.raises(PayloadMalformed, match="outside strings"):
        load(data, Fields, JsonLimits(5, 2))
