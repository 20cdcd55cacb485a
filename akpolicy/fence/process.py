"""One child process of the fence, seen from the program: started, asked one thing at a time, and ended without remains.

Rules:

- The child gets the program's own module path, so that it proves the very Cedar that the program uses. It gets no
  environment (an API key in there is none of its business), no descriptors but its pipes, and a process group of its
  own. What it prints before it is warm is kept for the message that says why it did not get there.
- Everything that waits for the child has a deadline. A child that died, or was late, or said what it may not say, is
  never asked again: it is killed, waited for, and its descriptors are closed, before the error comes out.
- One thread uses a child at a time; `kill` may come from another.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.fence.protocol import (
    ANSWER,
    EXIT_OUT_OF_MEMORY,
    HEADER_BYTES,
    HELLO,
    MAX_ANSWER_BYTES,
    decode_header,
)
from akpolicy.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# How long a child whose pipe closed may take to be gone.
EXIT_DEADLINE_S: Final = 5.0

_BOOT: Final = "import sys; sys.path[:] = sys.argv[2:]; from akpolicy.fence.child import main; main(int(sys.argv[1]))"
# Where the dynamic linker finds a Python that was not installed in the usual place.
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH",)
_READ_BYTES: Final = 1 * MIB
_SHOWN_BYTES: Final = 200
# What a process does to itself. Any other signal comes from outside, and says nothing about what it was asked.
_OWN_SIGNALS: Final = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)


class ChildLost(Exception):
    """The child is gone; `reason` completes "the child ...".

    `own_fault`: nothing from outside can have ended it. `for_memory`: it may have been for lack of memory.
    """

    def __init__(self, reason: str, *, own_fault: bool, for_memory: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.own_fault = own_fault
        self.for_memory = for_memory


class _Silence(Exception):
    """The pipe of the child is closed."""


class _Overdue(Exception):
    """The deadline has passed."""


def child_command(memory_bytes: int) -> list[str]:
    """Return the command line of a child."""
    # An entry may be relative, and the child begins elsewhere.
    paths = [str(Path(entry).absolute()) for entry in sys.path]
    return [sys.executable, "-I", "-c", _BOOT, str(memory_bytes), *paths]


class ChildProcess:
    """A running child.

    Raises `OSError` if the system cannot start one.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._complaints = os.fdopen(os.memfd_create("akpolicy-fence"), "rb")
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
                # Ctrl-C in a terminal is for the program, which then ends its child.
                process_group=0,
            )
        except OSError:
            self._complaints.close()
            raise
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a child without pipes")
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        self.warm = False
        # Which schema it has parsed; for the caller to keep.
        self.schema = b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_warm(self, deadline_s: float) -> None:
        """Wait until it can work, if it cannot yet; raise `ChildLost`."""
        if not self.warm:
            self._exchange((), HELLO, deadline_s)
            self.warm = True

    def ask(self, parts: Iterable[bytes | bytearray], deadline_s: float) -> bytes:
        """Send the parts of frames and return the body of the answer; raise `ChildLost`."""
        return self._exchange(parts, ANSWER, deadline_s)

    def is_usable(self) -> bool:
        """Whether it may be asked: it was not ended, and once it is warm it lives and has said nothing unasked."""
        return not self._output.closed and not (self.warm and _ready(self._output.fileno(), select.POLLIN, 0.0))

    def lose(self, reason: str) -> ChildLost:
        """End it at once, and return an error for the caller to raise: the fault is the child's own."""
        self.end(0.0)
        return ChildLost(reason, own_fault=True)

    def kill(self) -> None:
        """Have the system end it; whoever asks it then gets `ChildLost`."""
        self._process.kill()

    def end(self, deadline_s: float) -> None:
        """Tell it that there is no more work, kill it if it is there after `deadline_s`, and leave nothing behind."""
        self._input.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(deadline_s)
        finally:
            self._process.kill()
            # Longer only if the system itself hangs; then `subprocess` waits for it before it starts another.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_DEADLINE_S)
            self._output.close()
            self._complaints.close()

    def _exchange(self, parts: Iterable[bytes | bytearray], expected: bytes, deadline_s: float) -> bytes:
        until = time.monotonic() + deadline_s
        try:
            for part in parts:
                self._send(part, until)
            return self._receive(expected, until)
        except _Overdue:
            self.end(0.0)
            raise ChildLost(f"was not done after {deadline_s:g} seconds", own_fault=False) from None
        except _Silence:
            raise self._cause_of_death() from None
        except BaseException:
            # Whatever it was, what this child says next belongs to nobody.
            self.end(0.0)
            raise

    def _send(self, data: bytes | bytearray, until: float) -> None:
        view, number = memoryview(data), self._input.fileno()
        while view:
            _wait(number, select.POLLOUT, until)
            try:
                view = view[os.write(number, view) :]
            except BrokenPipeError:
                raise _Silence from None

    def _receive(self, expected: bytes, until: float) -> bytes:
        kind, size = decode_header(self._read(HEADER_BYTES, until))
        if kind != expected or size > MAX_ANSWER_BYTES:
            raise self.lose("answered what is no answer")
        return self._read(size, until)

    def _read(self, size: int, until: float) -> bytes:
        data, number = bytearray(), self._output.fileno()
        while len(data) < size:
            _wait(number, select.POLLIN, until)
            part = os.read(number, min(size - len(data), _READ_BYTES))
            if not part:
                raise _Silence
            data += part
        return bytes(data)

    def _cause_of_death(self) -> ChildLost:
        """Return how a child ended whose pipe is closed, and leave nothing of it."""
        try:
            code = self._process.wait(EXIT_DEADLINE_S)
            complaint = "" if self.warm else self._last_complaint()
        except subprocess.TimeoutExpired:
            return self.lose("closed its pipe")
        finally:
            self.end(0.0)
        if code == EXIT_OUT_OF_MEMORY:
            return ChildLost("ran out of memory", own_fault=True, for_memory=True)
        if code >= 0:
            return ChildLost(f"ended with status {code}{complaint}", own_fault=True)
        # Rust aborts where it finds no memory.
        for_memory = -code == signal.SIGABRT
        return ChildLost(
            f"was ended by {_signal_name(-code)}{complaint}", own_fault=-code in _OWN_SIGNALS, for_memory=for_memory
        )

    def _last_complaint(self) -> str:
        """Return the last line that the child printed as an error, as a remark; "" if there is none."""
        self._complaints.seek(max(0, self._complaints.seek(0, os.SEEK_END) - _SHOWN_BYTES))
        lines = self._complaints.read(_SHOWN_BYTES).decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f" (`{''.join(filter(str.isprintable, last))}`)" if last else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _wait(number: int, events: int, until: float) -> None:
    if not _ready(number, events, max(0.0, until - time.monotonic())):
        raise _Overdue


def _ready(number: int, events: int, seconds: float) -> bool:
    """Wait for a descriptor. `poll`, because `select` ends at descriptor 1,023, which a busy server is beyond."""
    poller = select.poll()
    poller.register(number, events)
    return bool(poller.poll(math.ceil(seconds * 1000)))
