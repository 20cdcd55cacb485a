"""What the fence's child says is data: well-formed in all, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.source import PolicyText
from akpolicy.errors import Problem
from akpolicy.fence.protocol import (
    ANSWER,
    HEADER_BYTES,
    decode_answer,
    decode_body,
    decode_header,
    decode_job,
    encode_answer,
    encode_frame,
    job_frame,
)

POLICIES = (PolicyText("a", "permit;", "a.cedar", 1), PolicyText("b", "forbid;", "b.cedar", 2))
PROBLEM = Problem("PolicyParseError", "message", "a", "a.cedar", 1)
# Every string that Python can hold, lone surrogates included.
STRINGS = st.text(st.characters(codec=None, exclude_categories=()))


def _body(frame: bytes) -> bytes:
    sent = bytes(frame)
    kind, size = decode_header(sent[:HEADER_BYTES])
    assert (kind, size) == (sent[:1], len(sent) - HEADER_BYTES)
    return sent[HEADER_BYTES:]


@given(
    st.lists(st.builds(PolicyText, STRINGS, STRINGS, STRINGS, st.integers(0, 2**40)), min_size=1, max_size=5),
)
def test_policies_arrive_as_they_are(policies: list[PolicyText]) -> None:
    assert decode_job(_body(b"".join(job_frame("7", policies).parts))) == ("7", policies)


@given(
    st.lists(st.builds(Problem, st.just("PolicyTooDeep"), STRINGS, st.just("b"), st.just(""), st.integers(0, 10**9)))
)
def test_problems_arrive_as_they_are(problems: list[Problem]) -> None:
    assert decode_answer(_body(encode_answer("7", problems)), "7", POLICIES) == tuple(problems)


@given(st.binary(max_size=64))
def test_noise_is_no_answer(noise: bytes) -> None:
    try:
        problems = decode_answer(noise, "7", POLICIES)
    except ValueError:
        return
    assert (problems, noise) == ((), _body(encode_answer("7", ())))


@given(st.data())
def test_a_damaged_answer_is_none_or_still_one_about_the_job(data: st.DataObject) -> None:
    body = bytearray(_body(encode_answer("7", [PROBLEM, PROBLEM])))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        try:
            problems = decode_answer(damaged, "7", POLICIES)
        except ValueError:
            continue
        assert {problem.policy_id for problem in problems} <= {"", "a", "b"}
        assert {problem.source for problem in problems} <= {"", "a.cedar", "b.cedar"}


@pytest.mark.parametrize(
    "fields",
    [
        ("PolicyParseError", "m", "a", "a.cedar"),
        ("PolicyError", "m", "a", "a.cedar", "1"),
        ("StoreUnavailable", "m", "a", "a.cedar", "1"),
        ("", "m", "a", "a.cedar", "1"),
        ("PolicyParseError", "m", "c", "a.cedar", "1"),
        ("PolicyParseError", "m", "a", "c.cedar", "1"),
        ("PolicyParseError", "m", "a", "a.cedar", ""),
        ("PolicyParseError", "m", "a", "a.cedar", "-1"),
        ("PolicyParseError", "m", "a", "a.cedar", "1_0"),
        ("PolicyParseError", "m", "a", "a.cedar", "٣"),
        ("PolicyParseError", "m", "a", "a.cedar", "9" * 5000),
    ],
)
def test_an_answer_about_something_else_is_none(fields: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="an answer"):
        decode_answer(_body(encode_frame(ANSWER, ("7", *fields))), "7", POLICIES)


@pytest.mark.parametrize("strings", [(), ("",), ("6",), ("77",)])
def test_an_answer_to_another_job_is_none(strings: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="another job"):
        decode_answer(_body(encode_frame(ANSWER, strings)), "7", POLICIES)


def test_an_answer_with_too_many_problems_is_none() -> None:
    assert len(decode_answer(_body(encode_answer("7", [PROBLEM] * MAX_PROBLEMS)), "7", POLICIES)) == MAX_PROBLEMS
    with pytest.raises(ValueError, match="number of fields"):
        decode_answer(_body(encode_answer("7", [PROBLEM] * (MAX_PROBLEMS + 1))), "7", POLICIES)


@pytest.mark.parametrize(
    "body", [b"", b"\1\0\0", b"\1\0\0\0", b"\1\0\0\0\2\0\0\0x", b"\1\0\0\0\1\0\0\0\xff", b"\xff" * 8]
)
def test_a_frame_that_is_not_exactly_strings_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_body(body)
