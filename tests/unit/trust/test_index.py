"""The index: there is one text for what it says, and no other text says it."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from akpolicy.errors import AkpolicyError, DuplicateField, FieldInvalid, PayloadMalformed
from akpolicy.index import IndexLine, build_index, parse_index
from akpolicy.limits import MAX_INDEX_BYTES, MAX_INDEX_SCOPES, MAX_JSON_INT
from akpolicy.scope import MAX_SCOPE_CHARS
from tests.simulators.tampering import flip_bit
from tests.unit.trust.scene import check_message

DIGEST = "a1" * 32
NAMES = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
MEMBERS = st.builds("org/{}/{}/{}".format, NAMES, st.sampled_from(["team", "user"]), NAMES)
SCOPES = st.just("global") | st.builds("org/{}".format, NAMES) | MEMBERS
NUMBERS = st.integers(1, MAX_JSON_INT)
LINES = st.builds(IndexLine, SCOPES, NUMBERS, NUMBERS, st.binary(min_size=32, max_size=32).map(bytes.hex))
INDEXES = st.lists(LINES, max_size=5, unique_by=lambda line: line.scope)


def text_of(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


@given(INDEXES)
def test_what_is_built_is_parsed_again(lines: list[IndexLine]) -> None:
    index = build_index(lines)

    assert parse_index(index.text) == index
    assert dict(index.lines) == {line.scope: line for line in lines}
    assert index.digest == hashlib.sha256(index.text).hexdigest()


@given(INDEXES, st.data())
def test_the_order_in_which_scopes_are_given_does_not_matter(lines: list[IndexLine], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(lines))

    assert build_index(shuffled).text == build_index(lines).text


@given(st.lists(LINES, min_size=1, max_size=3, unique_by=lambda line: line.scope), st.data())
def test_another_text_is_refused_or_says_something_else(lines: list[IndexLine], data: st.DataObject) -> None:
    index = build_index(lines)
    changed = flip_bit(index.text, data.draw(st.integers(0, 8 * len(index.text) - 1)))

    try:
        parsed = parse_index(changed)
    except AkpolicyError:
        return
    assert dict(parsed.lines) != dict(index.lines)
    assert build_index(parsed.lines.values()).text == changed


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    try:
        index = parse_index(data)
    except AkpolicyError:
        return
    assert build_index(index.lines.values()).text == data


def test_a_line_is_scope_epoch_version_and_digest() -> None:
    index = build_index([IndexLine("org/acme", 2, 17, DIGEST), IndexLine("global", 1, 3, DIGEST)])

    assert index.text == text_of(f"global 1 3 {DIGEST}", f"org/acme 2 17 {DIGEST}")


def test_an_org_without_policy_has_an_empty_index() -> None:
    assert build_index([]).text == b""
    assert parse_index(b"").lines == {}


def test_scopes_are_ordered_by_their_bytes() -> None:
    scopes = ["global", "org/B", "org/a", "org/a/team/t", "org/a-b"]

    ordered = [line.scope for line in build_index([IndexLine(scope, 1, 1, DIGEST) for scope in scopes]).in_order]

    assert ordered == sorted(scopes) == ["global", "org/B", "org/a", "org/a-b", "org/a/team/t"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (text_of(f"global 1 1 {DIGEST}")[:-1], PayloadMalformed),
        (text_of(f"global 1 1 {DIGEST}", ""), PayloadMalformed),
        (b"\n", PayloadMalformed),
        (text_of(f"global 1 1 {DIGEST}").replace(b"\n", b"\r\n"), PayloadMalformed),
        (text_of(f"global  1 1 {DIGEST}"), PayloadMalformed),
        (text_of(f" global 1 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global\t1 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global 1 1 {DIGEST} "), PayloadMalformed),
        (text_of(f"global 01 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global 0 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global 1 0 {DIGEST}"), PayloadMalformed),
        (text_of(f"global +1 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global -1 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global 1.0 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global \u0661 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"global 1 1 {DIGEST.upper()}"), PayloadMalformed),
        (text_of(f"global 1 1 {DIGEST[:-1]}"), PayloadMalformed),
        (text_of(f"global 1 1 {DIGEST}0"), PayloadMalformed),
        (text_of(f"global 1 {DIGEST}"), PayloadMalformed),
        (text_of("global 1 1"), PayloadMalformed),
        (text_of(f"global 1 {MAX_JSON_INT + 1} {DIGEST}"), FieldInvalid),
        (text_of(f"global {MAX_JSON_INT + 1} 1 {DIGEST}"), FieldInvalid),
        (text_of(f"Global 1 1 {DIGEST}"), FieldInvalid),
        (text_of(f"org/acme/ 1 1 {DIGEST}"), FieldInvalid),
        (text_of(f"org/acme/team/%74 1 1 {DIGEST}"), FieldInvalid),
        (text_of(f"global 1 1 {DIGEST}", f"global 1 2 {DIGEST}"), DuplicateField),
        (text_of(f"org/b 1 1 {DIGEST}", f"org/a 1 1 {DIGEST}"), PayloadMalformed),
        (text_of(f"org/a 1 1 {DIGEST}", f"global 1 1 {DIGEST}"), PayloadMalformed),
        (b"\xef\xbb\xbf" + text_of(f"global 1 1 {DIGEST}"), PayloadMalformed),
        (b"\x00", PayloadMalformed),
    ],
)
def test_a_text_that_is_not_in_its_one_spelling_is_refused(text: bytes, error: type[AkpolicyError]) -> None:
    with pytest.raises(error) as caught:
        parse_index(text)

    assert type(caught.value) is error
    check_message(caught.value)


def test_numbers_go_up_to_the_greatest_that_json_has() -> None:
    index = parse_index(text_of(f"global {MAX_JSON_INT} {MAX_JSON_INT} {DIGEST}"))

    assert (index.lines["global"].epoch, index.lines["global"].version) == (MAX_JSON_INT, MAX_JSON_INT)


def test_as_many_scopes_as_an_org_may_have_and_one_more() -> None:
    lines = [f"org/acme/team/{n:05d} 1 1 {DIGEST}" for n in range(MAX_INDEX_SCOPES)]
    assert len(parse_index(text_of(*lines)).lines) == MAX_INDEX_SCOPES

    with pytest.raises(PayloadMalformed, match=f"has {MAX_INDEX_SCOPES + 1} lines"):
        parse_index(text_of(*lines, f"org/acme/user/u 1 1 {DIGEST}"))


def test_a_text_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(PayloadMalformed, match=f"more than {MAX_INDEX_BYTES}"):
        parse_index(b"\n" * (MAX_INDEX_BYTES + 1))
    with pytest.raises(PayloadMalformed, match="lines"):
        parse_index(b"\n" * MAX_INDEX_BYTES)


def test_a_scope_of_the_greatest_length_has_a_line() -> None:
    scope = "org/acme/team/" + "t" * (MAX_SCOPE_CHARS - len("org/acme/team/"))
    assert parse_index(text_of(f"{scope} 1 1 {DIGEST}")).lines[scope].scope == scope

    with pytest.raises(PayloadMalformed):
        parse_index(text_of(f"{scope}t 1 1 {DIGEST}"))


@given(st.text(min_size=1, max_size=80))
def test_what_a_message_quotes_is_short_and_printable(line: str) -> None:
    assume(re.fullmatch(r"[!-~]+ [0-9]+ [0-9]+ [0-9a-f]{64}", line) is None and "\n" not in line)
    with pytest.raises(AkpolicyError) as caught:
        parse_index(line.encode() + b"\n")

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 3)),
    st.dictionaries(st.integers(0, 30), st.none() | st.integers(1, 3)),
)
def test_an_index_that_is_made_from_another_is_the_one_that_is_built(
    before: dict[int, int], changes: dict[int, int | None]
) -> None:
    def line(number: int, version: int) -> IndexLine:
        # Some names begin with others.
        return IndexLine("org/acme/team/" + "a" * (number // 3) + "b" * (number % 3 + 1), 1, version, DIGEST)

    changed = build_index(line(*item) for item in before.items()).changed(
        [line(number, version) for number, version in changes.items() if version is not None],
        [line(number, 1).scope for number, version in changes.items() if version is None],
    )

    after = {number: version for number, version in {**before, **changes}.items() if version is not None}
    assert changed == build_index(line(*item) for item in after.items())
