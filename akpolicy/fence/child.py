"""The child of the fence: checks policies with Cedar, and dies in the program's stead.

Rules:

- It is the weaker one. It has three quarters of the stack that a thread of its parent has, bounded memory and no core
  file, and is the first that the kernel ends when the host runs out of memory.
- It lives as long as its parent's ends of the pipes: it ends when it reads the end of its input, and the kernel ends
  it (SIGIO) if the end for its answers closes during a job, whatever Cedar is doing at that moment. Signals that stop
  its parent mean nothing to it, so that a stop of the whole group or Ctrl-C does not look like a crash.
- Only frames go to the pipe. Descriptors 0, 1 and 2 are no place for them: what a library prints goes nowhere.
- It keeps the parsed schema, and nothing else, from job to job; memory goes back to the system after each.
- An error that it does not know is no answer: it ends with a status that is not 0.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from akpolicy.allocator import give_back
from akpolicy.engine.check import check_together
from akpolicy.engine.schema import parse_schema
from akpolicy.errors import SchemaInvalid
from akpolicy.fence.protocol import (
    EXIT_OUT_OF_MEMORY,
    HEADER_BYTES,
    HELLO,
    JOB,
    SCHEMA,
    decode_body,
    decode_header,
    decode_job,
    encode_answer,
    encode_frame,
)
from akpolicy.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.check import Check
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from akpolicy.errors import Problem

# What a thread gets from glibc where the stack is unlimited (x86-64, aarch64).
UNLIMITED_THREAD_STACK_BYTES: Final = 2 * MIB
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OOM_SCORE_ADJ: Final = "1000"


def main(memory_bytes: int, check: Check = check_together) -> None:
    """Answer jobs until the input ends, with `memory_bytes` of address space at most. `check` is for tests."""
    confine(memory_bytes)
    source, sink = _take_pipes()
    try:
        _serve(source, sink, check)
    except BrokenPipeError:
        return
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)


def confine(memory_bytes: int) -> None:
    """Give up what the parent has more of. The main thread must not have used much of its stack yet."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    # A parent that blocks signals for its threads has blocked them for its children.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with suppress(OSError):  # no /proc: the kernel chooses by size
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJ, encoding="ascii")
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, memory_bytes)
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (proof_stack_bytes(soft), hard))


def proof_stack_bytes(soft_limit: int) -> int:
    """Return how much stack the child may use, given the soft limit that its parent had."""
    given = UNLIMITED_THREAD_STACK_BYTES if soft_limit == resource.RLIM_INFINITY else soft_limit
    return given * 3 // 4


def _limit(which: int, value: int) -> None:
    """Lower a limit for good, to `value` unless it is below that already."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes from and to the parent, and leave nothing at the places where libraries read and print."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.close(nowhere)
    return source, sink


def _serve(source: BinaryIO, sink: BinaryIO, check: Check) -> None:
    schema: CedarSchema | SchemaInvalid | None = None
    _say(sink, encode_frame(HELLO, ()))
    while header := source.read(HEADER_BYTES):
        kind, size = decode_header(header)
        if kind == SCHEMA:
            (text,) = decode_body(source.read(size))
            schema = _schema(text, sink)
        elif kind == JOB and schema is not None:
            number, policies = decode_job(source.read(size))
            _die_with_parent(sink, dies=True)
            answer = encode_answer(number, _problems(policies, schema, check))
            _die_with_parent(sink, dies=False)
            _say(sink, answer)
            del policies
        else:
            sys.exit(f"a frame of the kind {kind!r} has no place here")
        give_back()


def _schema(text: str, sink: BinaryIO) -> CedarSchema | SchemaInvalid:
    """Return the schema, or what is wrong with it, which is then the answer to each job."""
    _die_with_parent(sink, dies=True)
    try:
        return parse_schema(text)
    except SchemaInvalid as error:
        return error
    finally:
        _die_with_parent(sink, dies=False)


def _problems(policies: Sequence[PolicyText], schema: CedarSchema | SchemaInvalid, check: Check) -> tuple[Problem, ...]:
    if isinstance(schema, SchemaInvalid):
        return schema.problems
    # Without policies, the schema was what is asked about.
    return check(policies, schema) if policies else ()


def _say(sink: BinaryIO, frame: bytes) -> None:
    sink.write(frame)
    sink.flush()


def _die_with_parent(sink: BinaryIO, *, dies: bool) -> None:
    """Let the kernel end this process when the parent's end of the pipe closes, or let it live.

    The pipe is the one to the parent: nothing happens there during a job. The other one may still be about to announce
    the last of the job's own bytes, which is the same signal.
    """
    number = sink.fileno()
    fcntl.fcntl(number, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    fcntl.fcntl(number, fcntl.F_SETFL, flags | os.O_ASYNC if dies else flags & ~os.O_ASYNC)
    # It may have closed before.
    poller = select.poll()
    poller.register(number, 0)
    if any(event & select.POLLERR for _, event in poller.poll(0)):
        raise BrokenPipeError
