"""What the fence's tests share: the schema, policies that say what a strange child does, and fences that end."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.engine.schema import CedarSchema, load_default_schema
from akpolicy.engine.source import PolicyText
from akpolicy.fence.fence import Fence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STRANGE_CHILD = Path(__file__).with_name("strange_child.py")
ANY = "permit (principal, action, resource);"
GOOD = (PolicyText("good", ANY),)


def deed(name: str, text: str = ANY) -> tuple[PolicyText, ...]:
    """Return policies on which the strange child does what `name` says."""
    return (PolicyText(name, text),)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that only its adopter has to wait for has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


class Scene:
    """A fence around the strange child; `seconds` is the deadline of each job."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker
        self.seconds = 60.0
        self._fences: list[Fence] = []

    def fence(self, *answers: str, **options: Any) -> Fence:
        command = [sys.executable, str(STRANGE_CHILD), str(self.marker), *answers]
        options = {"command": command, "deadline_s": lambda size: self.seconds, **options}
        fence = Fence(**options)
        self._fences.append(fence)
        return fence

    def close(self) -> None:
        for fence in self._fences:
            fence.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "job-has-begun")
    yield made
    made.close()


@pytest.fixture(scope="session")
def schema() -> CedarSchema:
    return load_default_schema()


@pytest.fixture(scope="session")
def fence() -> Iterator[Fence]:
    with Fence() as made:
        yield made


class Attempt(threading.Thread):
    """A call on a thread of its own; `failure` is what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def end(self) -> Exception | None:
        self.join(60)
        assert not self.is_alive()
        return self.failure


def descriptors(pid: int | str) -> dict[str, str]:
    """Return the open descriptors of a process, and what they are."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that read the directory
            found[entry.name] = str(entry.readlink())
    return found
