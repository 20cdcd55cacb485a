"""What the fence and its child say to each other: frames with strings in them, over two pipes.

Rules:

- A frame is its kind (one byte), the length of its body (eight bytes), and the body: how many strings, the length of
  each, then all of them as UTF-8. Lone surrogates pass: what is wrong with a text is for the check to say.
- The program says SCHEMA (its text), which has no answer, and JOB (its number, then ids, sources, lines and texts of
  the policies). The answer to a job without policies says what is wrong with the schema.
- The child says HELLO once, when it is warm, and ANSWER (the job's number, then every problem) to each job; nothing
  else, and never unasked.
- An answer is believed to be one only if it is well-formed in all: number, ids and sources of that job, known codes, at
  most `MAX_PROBLEMS` problems, at most `MAX_ANSWER_BYTES`.
"""

from __future__ import annotations

import struct
from array import array
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from akpolicy import errors
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.source import PolicyText
from akpolicy.errors import PolicyError, Problem
from akpolicy.limits import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SCHEMA: Final = b"S"
JOB: Final = b"J"
HELLO: Final = b"H"
ANSWER: Final = b"A"

# A message may quote much of a policy; 100 problems of 16 KiB, each character of which is escaped, stay below this.
MAX_ANSWER_BYTES: Final = 32 * MIB
# The child ends with it where Python finds no more memory. (Where Rust finds none, it aborts.)
EXIT_OUT_OF_MEMORY: Final = 71

# A frame is sent in parts of at least this size, but for the first and the last.
PART_BYTES: Final = 256 * KIB

_HEADER: Final = struct.Struct("=cQ")
HEADER_BYTES: Final = _HEADER.size
_COUNT: Final = struct.Struct("=I")
_LENGTH: Final = "I"
_COLUMNS: Final = 4
_FIELDS: Final = 5
_MAX_LINE_DIGITS: Final = 10
_CODES: Final = frozenset(
    name
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, PolicyError) and kind is not PolicyError
)


class Frame(NamedTuple):
    """A frame that is made while it is sent: content may have 32 MiB, of which there is no copy here.

    `size` is that of all `parts`, in bytes; they can be taken once.
    """

    size: int
    parts: Iterator[bytes | bytearray]


def frame_of(kind: bytes, strings: Sequence[str]) -> Frame:
    """Return a frame in parts."""
    # String by string: one call over ten thousands would stop every other thread meanwhile.
    lengths = array(_LENGTH, (len(string) if string.isascii() else len(_encoded(string)) for string in strings))
    packed = lengths.tobytes()
    body = _COUNT.size + len(packed) + sum(lengths)
    head = _HEADER.pack(kind, body) + _COUNT.pack(len(lengths)) + packed
    return Frame(HEADER_BYTES + body, chain([head], _parts(strings)))


def encode_frame(kind: bytes, strings: Sequence[str]) -> bytes:
    """Return a frame as a whole."""
    return b"".join(frame_of(kind, strings).parts)


def _parts(strings: Iterable[str]) -> Iterator[bytearray]:
    part = bytearray()
    for string in strings:
        part += _encoded(string)
        if len(part) >= PART_BYTES:
            yield part
            part = bytearray()
    yield part


def _encoded(string: str) -> bytes:
    return string.encode("utf-8", "surrogatepass")


def decode_header(data: bytes) -> tuple[bytes, int]:
    """Return the kind of a frame and the length of its body."""
    kind, size = _HEADER.unpack(data)
    return kind, size


def decode_body(body: bytes) -> list[str]:
    """Return the strings of a frame; raise `ValueError` if it is not exactly strings."""
    if len(body) < _COUNT.size:
        raise ValueError("a frame without a count")
    (count,) = _COUNT.unpack_from(body)
    at = _COUNT.size + _COUNT.size * count
    if len(body) < at:
        raise ValueError("a frame that is shorter than its lengths")
    lengths = struct.unpack_from(f"={count}I", body, _COUNT.size)
    if len(body) != at + sum(lengths):
        raise ValueError("a frame of another length than its strings")
    strings = []
    for length in lengths:
        strings.append(str(body[at : at + length], "utf-8", "surrogatepass"))
        at += length
    return strings


def job_frame(number: str, policies: Sequence[PolicyText]) -> Frame:
    """Return the frame that asks for a check of these policies."""
    ids, sources = [policy.id for policy in policies], [policy.source for policy in policies]
    lines, texts = [str(policy.line) for policy in policies], [policy.text for policy in policies]
    return frame_of(JOB, [number, *ids, *sources, *lines, *texts])


def decode_job(body: bytes) -> tuple[str, list[PolicyText]]:
    """Return the number and the policies of a job."""
    number, *strings = decode_body(body)
    count = len(strings) // _COLUMNS
    ids, sources, lines, texts = (strings[count * at : count * (at + 1)] for at in range(_COLUMNS))
    return number, [
        PolicyText(policy_id, text, source, int(line))
        for policy_id, source, line, text in zip(ids, sources, lines, texts, strict=True)
    ]


def encode_answer(number: str, problems: Sequence[Problem]) -> bytes:
    """Return the frame that answers a job."""
    strings = [number]
    for problem in problems:
        strings += [problem.code, problem.message, problem.policy_id, problem.source, str(problem.line)]
    return encode_frame(ANSWER, strings)


def decode_answer(body: bytes, number: str, policies: Sequence[PolicyText]) -> tuple[Problem, ...]:
    """Return the problems of a job's policies; raise `ValueError` if the child cannot have meant them."""
    answered, *strings = decode_body(body) or [""]
    if answered != number:
        raise ValueError("an answer to another job")
    if len(strings) % _FIELDS or len(strings) > _FIELDS * MAX_PROBLEMS:
        raise ValueError("an answer with another number of fields than problems have")
    ids, sources = {"", *(policy.id for policy in policies)}, {"", *(policy.source for policy in policies)}
    problems = []
    for at in range(0, len(strings), _FIELDS):
        code, message, policy_id, source, line = strings[at : at + _FIELDS]
        if code not in _CODES or policy_id not in ids or source not in sources:
            raise ValueError("an answer about something else than the job")
        problems.append(Problem(code, message, policy_id, source, _line(line)))
    return tuple(problems)


def _line(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_LINE_DIGITS):
        raise ValueError("an answer with a line that is no number")
    return int(text)
