"""A child of the fence that does what the id of the first policy says: what no content is known to make Cedar do.

Started as a script: its first argument is a file that says, once it is there, that a job has begun. With a second
argument it is no child of ours at all, but something that answers what that argument says.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cedarpy

from akpolicy.engine.check import check_policies
from akpolicy.errors import Problem
from akpolicy.fence import child
from akpolicy.fence.protocol import (
    ANSWER,
    HEADER_BYTES,
    HELLO,
    JOB,
    decode_header,
    decode_job,
    encode_answer,
    encode_frame,
)
from akpolicy.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

CRASHING = f"permit (principal, action, resource) when {{ {'(' * 700}true{')' * 700} }};"
HUGE = 1 << 60


def _crash() -> None:
    cedarpy.PolicySet.from_str(CRASHING)


def _hang() -> None:
    while True:
        pass


def _grow() -> None:
    kept = []
    while True:
        kept.append(bytearray(MIB))


def _fail() -> None:
    raise RuntimeError("something that nobody thought of")


def _print() -> None:
    os.write(1, b"noise from a library")
    sys.stdout.write("and from Python")
    sys.stdout.flush()


def _announce() -> None:
    """Let the kernel announce input during a job, as it may if the job's own bytes are announced late."""
    (source,) = filter(_is_input, (int(entry.name) for entry in Path("/proc/self/fd").iterdir()))
    again = os.open(f"/proc/self/fd/{source}", os.O_RDWR | os.O_NONBLOCK)
    os.write(again, b"x")
    os.read(again, 1)
    os.close(again)


def _is_input(number: int) -> bool:
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(number).st_mode)
        return is_pipe and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    except OSError:  # the one that read the directory
        return False


_DEEDS: dict[str, Callable[[], None]] = {
    "crash": _crash,
    "hang": _hang,
    "grow": _grow,
    "fail": _fail,
    "print": _print,
    "announce": _announce,
    "abort": os.abort,
}


def _answers(number: str) -> dict[str, bytes | bytearray]:
    good = encode_answer(number, ())
    return {
        "noise": b"noise from something that is no child",
        "kind": encode_frame(HELLO, (number,)),
        "length": ANSWER + HUGE.to_bytes(8, sys.byteorder),
        "strings": encode_frame(ANSWER, (number, "one")),
        "foreign": encode_answer(number, (Problem("PolicyParseError", "x", "another", "", 1),)),
        "late": encode_answer(str(int(number) - 1), ()),
        "unasked": good + good,
        "nothing": b"",
    }


def _pretend(kind: str) -> None:
    """Say hello like a child, and answer every job with something strange."""
    os.write(1, encode_frame(HELLO, ()))
    while header := sys.stdin.buffer.read(HEADER_BYTES):
        frame, size = decode_header(header)
        body = sys.stdin.buffer.read(size)
        if frame == JOB:
            os.write(1, _answers(decode_job(body)[0])[kind])
            if kind == "nothing":
                os.close(1)


def main(marker: Path) -> None:
    schemas: list[CedarSchema] = []

    def check(policies: Sequence[PolicyText], schema: CedarSchema) -> tuple[Problem, ...]:
        begun = marker.exists()
        marker.touch()
        if policies[0].id == "first" and not begun:
            os.kill(os.getpid(), signal.SIGKILL)
        if policies[0].id == "schema" and not all(schema is known for known in schemas):
            raise RuntimeError("the schema was parsed again")
        schemas.append(schema)
        _DEEDS.get(policies[0].id, lambda: None)()
        return check_policies(policies, schema)

    child.main(512 * MIB, check)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _pretend(sys.argv[2])
    else:
        main(Path(sys.argv[1]))
