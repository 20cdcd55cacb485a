"""The fence around Cedar: content that Cedar crashes on takes a child down, not the program.

Rules:

- `check` and `prove` say exactly what `check_policies` says, but it is the child that ran it. Only content that came
  through may be parsed by the program itself.
- One child, one job at a time, whoever asks. It is started ahead of the first job (`start`), and is replaced when it is
  lost: at once after an idle one, and after a pause that doubles with each death in a row, so that content which kills
  children cannot make the host start processes without end.
- Content that a child died of by its own fault is refused from then on without a child, as long as the program lives.
  What can have come from outside (out of time, SIGKILL by the kernel or a person) must happen twice for that: a host
  that was short of memory once must not refuse good policy until it is restarted.
- A child that cannot be started is no fault of the content, and no reason to let it pass: `EngineUnavailable`.
- `close` ends the child, also in the middle of a job, and leaves no process behind.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self

from akpolicy.engine.check import set_problem
from akpolicy.errors import EngineUnavailable, PolicyCrashesEngine, PolicySetInvalid, SchemaInvalid
from akpolicy.fence.process import ChildLost, ChildProcess, child_command
from akpolicy.fence.protocol import SCHEMA, Frame, decode_answer, frame_of, job_frame
from akpolicy.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from akpolicy.errors import Problem

# Address space of a child. Measured: 50,000 short policies (9 MiB) need 0.7 GiB, 16 MiB made of operators 2.1 GiB.
MEMORY_BYTES: Final = 2048 * MIB
# Measured: 0.5 s a MiB of ordinary policies, 5 s a MiB of nothing but set literals.
DEADLINE_BASE_S: Final = 10.0
DEADLINE_S_PER_MIB: Final = 10.0
START_DEADLINE_S: Final = 30.0
START_ATTEMPTS: Final = 2
CLOSE_DEADLINE_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0
_MAX_DOUBLINGS: Final = 10
# How much bad content is remembered, and how often a child must be lost from outside until content is taken for bad.
MAX_REMEMBERED: Final = 1024
MAX_STRIKES: Final = 2

# Digests of the schema and of the content.
_Key = tuple[bytes, str]


class Prover(Protocol):
    """What proves that Cedar text can be parsed where a crash would harm: `Fence`."""

    def prove(self, policies: Sequence[PolicyText], schema: CedarSchema) -> None:
        """Return if these policies can be parsed and fit the schema; raise the `PolicyError` that says why not."""

    def prove_schema(self, text: str) -> None:
        """Return if the text is a schema; raise the `PolicyError` that says why not."""


@dataclass(slots=True)
class _Crash:
    """What became of a child that got some content."""

    reason: str
    strikes: int


@dataclass(frozen=True, slots=True)
class _Job:
    """What a child is asked; no two have the same number."""

    number: str
    policies: Sequence[PolicyText]
    schema_text: str

    @property
    def key(self) -> _Key:
        """What makes two jobs the same question."""
        schema_digest = hashlib.sha256(self.schema_text.encode("utf-8", "surrogatepass")).digest()
        return schema_digest, content_digest(self.policies)


class Fence:
    """Checks policies in a child process. Thread-safe; blocks. A context manager that closes itself.

    `memory_bytes` is the child's address space. The other arguments are for tests: the child's command line, how many
    seconds a job of so many bytes may take, how many to pause after so many deaths in a row.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        command: Sequence[str] = (),
        deadline_s: Callable[[int], float] | None = None,
        pause_s: Callable[[int], float] | None = None,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._command = command
        self._deadline_s = deadline_s or job_deadline_s
        self._pause_s = pause_s or restart_pause_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._child: ChildProcess | None = None
        self._numbers = itertools.count(1)
        self._crashed: OrderedDict[_Key, _Crash] = OrderedDict()
        self._deaths_in_a_row = 0
        self._not_before = 0.0
        # How many children were started, and how many were lost on a job.
        self.starts = 0
        self.crashes = 0

    @property
    def pid(self) -> int | None:
        """The process id of the child; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> None:
        """Start a child that warms up by itself; raise `EngineUnavailable` if the system cannot start one."""
        with self._lock:
            self._refuse_closed()
            if self._child is None:
                self._child = self._spawn()

    def prove(self, policies: Sequence[PolicyText], schema: CedarSchema) -> None:
        """Return if a child could parse these policies and they fit the schema.

        Raises:
            PolicySetInvalid: with every problem that `check_policies` finds.
            PolicyCrashesEngine: a child died of them, now or before.
            EngineUnavailable: there is no child to ask.

        """
        if problems := self.check(policies, schema):
            raise PolicySetInvalid(problems)

    def prove_schema(self, text: str) -> None:
        """Return if a child could parse this schema.

        Raises:
            SchemaInvalid: Cedar cannot read it.
            PolicyCrashesEngine: a child died of it, now or before.
            EngineUnavailable: there is no child to ask.

        """
        for problem in self._ask((), text):
            raise SchemaInvalid(problem.message)

    def check(self, policies: Sequence[PolicyText], schema: CedarSchema) -> tuple[Problem, ...]:
        """Return what `check_policies` says of these policies; raise `PolicyCrashesEngine` or `EngineUnavailable`."""
        # What is too much to be looked at need not travel.
        if problem := set_problem(policies):
            return (problem,)
        return self._ask(policies, schema.text)

    def _ask(self, policies: Sequence[PolicyText], schema_text: str) -> tuple[Problem, ...]:
        job = _Job(str(next(self._numbers)), policies, schema_text)
        key, frame = job.key, job_frame(job.number, policies)
        with self._lock:
            try:
                return self._check(key, job, frame)
            finally:
                # `close` may have stopped waiting for this.
                if self._closing.is_set():
                    self._drop_child(0.0)

    def close(self) -> None:
        """End the child within `CLOSE_DEADLINE_S`, also during a job, which then fails. May be called again."""
        self._closing.set()
        idle = self._lock.acquire(blocking=False)
        if not idle:
            # Whoever has the lock has this child, or sees after starting one that it is to end.
            if (child := self._child) is not None:
                child.kill()
            if not self._lock.acquire(timeout=CLOSE_DEADLINE_S):
                return
        try:
            self._drop_child(CLOSE_DEADLINE_S if idle else 0.0)
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- child --------------------------------------------------------------------------------------------------------

    def _check(self, key: _Key, job: _Job, frame: Frame) -> tuple[Problem, ...]:
        self._refuse_crashed(key)
        child = self._warm_child()
        frames = [frame]
        if child.schema != key[0]:
            frames.insert(0, frame_of(SCHEMA, [job.schema_text]))
        try:
            size = sum(frame.size for frame in frames)
            body = child.ask(itertools.chain.from_iterable(frame.parts for frame in frames), self._deadline_s(size))
            problems = _decoded(child, body, job)
        except ChildLost as lost:
            self._child = None
            self._refuse_closed()
            self._note_death()
            raise self._remember(key, lost) from lost
        child.schema = key[0]
        self._deaths_in_a_row = 0
        return problems

    def _warm_child(self) -> ChildProcess:
        """Return a child that waits for work, a new one if there is none; raise `EngineUnavailable`."""
        reason = ""
        for _ in range(START_ATTEMPTS):
            if self._child is not None and not self._child.is_usable():
                # It was ended while it had nothing to do, or spoke unasked, or a call was broken off.
                self._drop_child(0.0)
            if self._child is None:
                self._child = self._spawn()
            self._refuse_closed()
            try:
                self._child.wait_warm(START_DEADLINE_S)
            except ChildLost as lost:
                self._child = None
                self._note_death()
                reason = lost.reason
            else:
                return self._child
        self._refuse_closed()
        raise EngineUnavailable(f"the process that checks policies first cannot be started: it {reason}")

    def _spawn(self) -> ChildProcess:
        self._closing.wait(max(0.0, self._not_before - time.monotonic()))
        self._refuse_closed()
        try:
            child = ChildProcess(self._command or child_command(self._memory_bytes))
        except OSError as error:
            self._note_death()
            raise EngineUnavailable(
                f"the process that checks policies first cannot be started: {error.strerror or error}"
            ) from error
        self.starts += 1
        return child

    def _drop_child(self, deadline_s: float) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end(deadline_s)

    def _refuse_closed(self) -> None:
        if self._closing.is_set():
            raise EngineUnavailable("the process that checks policies first has ended, because the program is stopping")

    # --- deaths -------------------------------------------------------------------------------------------------------

    def _note_death(self) -> None:
        self._deaths_in_a_row += 1
        self._not_before = time.monotonic() + self._pause_s(self._deaths_in_a_row)

    def _remember(self, key: _Key, lost: ChildLost) -> PolicyCrashesEngine:
        """Remember what the child was lost of, and return the error that says so."""
        self.crashes += 1
        reason = f"{lost.reason} (it may use {self._memory_bytes // MIB} MiB)" if lost.for_memory else lost.reason
        before = self._crashed.pop(key, None)
        strikes = MAX_STRIKES if lost.own_fault else 1 + (before.strikes if before else 0)
        self._crashed[key] = _Crash(reason, strikes)
        while len(self._crashed) > MAX_REMEMBERED:
            self._crashed.popitem(last=False)
        return _refusal(self._crashed[key], key)

    def _refuse_crashed(self, key: _Key) -> None:
        crash = self._crashed.get(key)
        if crash is not None and crash.strikes >= MAX_STRIKES:
            self._crashed.move_to_end(key)
            raise _refusal(crash, key)


def job_deadline_s(size: int) -> float:
    """Return how many seconds a job of `size` bytes may take."""
    return DEADLINE_BASE_S + DEADLINE_S_PER_MIB * size / MIB


def restart_pause_s(deaths: int) -> float:
    """Return how many seconds to wait after so many deaths in a row."""
    return min(MAX_PAUSE_S, FIRST_PAUSE_S * (1 << min(deaths - 1, _MAX_DOUBLINGS)))


def content_digest(policies: Sequence[PolicyText]) -> str:
    """Return the hex SHA-256 of these policies as bundle content: the digest by which a manifest names them."""
    # Policy by policy: encoding all at once would stop every other thread meanwhile.
    encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
    digest = hashlib.sha256(b'{"policies":[')
    for number, policy in enumerate(policies):
        text = encode({"id": policy.id, "text": policy.text})
        digest.update(f",{text}".encode("utf-8", "surrogatepass") if number else text.encode("utf-8", "surrogatepass"))
    digest.update(b"]}")
    return digest.hexdigest()


def _decoded(child: ChildProcess, body: bytes, job: _Job) -> tuple[Problem, ...]:
    try:
        return decode_answer(body, job.number, job.policies)
    except ValueError:
        raise child.lose("answered what is no answer") from None


def _refusal(crash: _Crash, key: _Key) -> PolicyCrashesEngine:
    advice = "leave some out until the rest is accepted" if crash.strikes >= MAX_STRIKES else "send them once more"
    return PolicyCrashesEngine(
        f"the process that only checks policies {crash.reason} on these, so nothing else parses them; {advice} "
        f"(SHA-256 of the content: {key[1]})"
    )
