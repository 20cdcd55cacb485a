"""One long list read element by element is the list that the strict reader reads, or refused as it refuses it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.errors import AkpolicyError, DuplicateField, PayloadMalformed, PayloadNotUtf8
from akpolicy.stepwise_json import ELEMENTS_A_STEP, WINDOW_BYTES, load_with_list
from akpolicy.strict_json import JsonLimits, dump, load_object

if TYPE_CHECKING:
    from collections.abc import Callable

FIELD = "l"
WINDOWS = st.sampled_from([1, 2, 3, 5, 16])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-12345, 12345) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([FIELD, "a", "b", ""]) | TEXT
# As text, so that a name can come twice.
MEMBERS = st.lists(st.tuples(NAMES, VALUES | st.lists(VALUES, max_size=6)), max_size=4)


def whole(data: bytes, *, window: int = WINDOW_BYTES) -> dict[str, Any]:
    """Return the object with all that was handed over step by step put back."""
    taken: list[Any] = []
    value = load_with_list(data, FIELD, taken.extend, window=window)
    return value | {FIELD: taken} if taken else value


def outcome(read: Callable[[], dict[str, Any]]) -> dict[str, Any] | type[AkpolicyError]:
    try:
        return read()
    except AkpolicyError as error:
        return type(error)


@given(MEMBERS, WINDOWS, st.sampled_from([None, 1]), st.booleans())
def test_it_is_what_the_strict_reader_reads(
    members: list[tuple[str, object]], window: int, indent: int | None, ascii_only: bool
) -> None:
    def text(value: object) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    data = ("{" + ",".join(f"{text(name)} : {text(value)}" for name, value in members) + "}\n").encode()

    assert outcome(lambda: whole(data, window=window)) == outcome(lambda: load_object(data))


@given(st.text(st.sampled_from('{}[]",:l\\u0ddc1-e.tn \u20ac'), max_size=40), WINDOWS)
def test_any_json_like_text_is_read_or_refused_alike(text: str, window: int) -> None:
    data = ('{"l":[' + text).encode()

    assert outcome(lambda: whole(data, window=window)) == outcome(lambda: load_object(data))


@given(st.binary(max_size=30), WINDOWS)
def test_any_bytes_are_read_or_refused_alike(tail: bytes, window: int) -> None:
    for data in (tail, b'{"l":["' + tail + b'"]}', b'{"l":[1]}' + tail):
        assert outcome(lambda data=data: whole(data, window=window)) == outcome(lambda data=data: load_object(data))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b'{"l":[1],"l":[2]}', DuplicateField, "payload names the field `l` twice"),
        (b'{"l":1,"l":[2]}', DuplicateField, "payload names the field `l` twice"),
        (b"{1.5:1}", PayloadMalformed, "payload is not JSON: Expecting property name enclosed in double quotes"),
        (b'{{"a":1,"a":1}:1}', PayloadMalformed, "payload is not JSON: Expecting property name"),
        (b'{"l":[{"a":1,"a":2}]}', DuplicateField, "payload names the field `a` twice"),
        (b'{"l":[1,]}', PayloadMalformed, "payload is not JSON: Expecting value at line 1 column 9"),
        (b'{"l":[1 2]}', PayloadMalformed, "payload is not JSON: Expecting ',' delimiter at line 1 column 9"),
        (b'{"l":[1]', PayloadMalformed, "payload is not JSON: Expecting ',' delimiter"),
        (b'{"l":[1]} x', PayloadMalformed, "payload is not JSON: Extra data"),
        (b'{"l":[1]}\xe2\x82', PayloadNotUtf8, "payload is not UTF-8 at byte 9"),
        (b'{"l":["\\ud800"]}', PayloadNotUtf8, "payload has a lone surrogate"),
        (b'{"l":[1],"\\udc00":1}', PayloadNotUtf8, "payload has a lone surrogate"),
        (b'[{"l":[1]}]', PayloadMalformed, "payload is not a JSON object"),
        (b"", PayloadMalformed, "payload is not JSON"),
    ],
)
def test_it_is_said_what_is_wrong_and_where(data: bytes, error: type[AkpolicyError], says: str) -> None:
    with pytest.raises(error) as caught:
        whole(data, window=4)
    assert type(caught.value) is error
    assert caught.value.message.startswith(says)


def test_elements_come_in_steps_and_in_order() -> None:
    steps: list[list[int]] = []
    count = 2 * ELEMENTS_A_STEP + 1

    rest = load_with_list(dump({"a": 1, "l": list(range(count)), "z": [3]}), FIELD, steps.append)

    assert [len(step) for step in steps] == [ELEMENTS_A_STEP, ELEMENTS_A_STEP, 1]
    assert [number for step in steps for number in step] == list(range(count))
    assert rest == {"a": 1, "l": [], "z": [3]}


def test_an_element_larger_than_the_window_is_whole() -> None:
    large = "\u20ac" * WINDOW_BYTES
    assert whole(dump({"l": [large, 1, large]})) == {"l": [large, 1, large]}


def test_the_limits_hold_for_the_list_and_for_the_object() -> None:
    limits = JsonLimits(structure_bytes=20, object_fields=1)
    for data in (dump({"l": [1] * 20}), dump({"l": [{"a": "", "b": ""}]}), dump({"l": [], "m": ""})):
        with pytest.raises(AkpolicyError) as caught:
            load_with_list(data, FIELD, lambda _: None, limits)
        with pytest.raises(type(caught.value)):
            load_object(data, limits)


def test_fields_that_come_again_and_again_take_linear_time() -> None:
    def steps(count: int) -> int:
        taken = 0

        def tell(_frame: object, event: str, _argument: object) -> None:
            nonlocal taken
            taken += event == "call"

        data = b"{" + b'"a":0,' * count + b'"l":[],' * count + b'"a":0}'
        before = sys.getprofile()
        sys.setprofile(tell)
        try:
            with pytest.raises(DuplicateField):
                whole(data)
        finally:
            sys.setprofile(before)
        return taken

    # Calls, which a generator makes for each item.
    assert steps(400) < 2.5 * steps(200)
