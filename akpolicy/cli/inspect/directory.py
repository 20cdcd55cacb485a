"""A sidecar's state directory, looked at from outside.

Rules:

- Nothing is written, created or locked: it may be in use. A file that goes away meanwhile is left out.
- Documents are recognised by their content, and belong together by digest. Roots found there are those that the rest is
  judged by; whether they are the true ones, anchors say.
- `state.json` says what is enforced (`state_file`). It is no evidence: who owns the directory can write it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from akpolicy.cli.inspect.given import Given, in_order, with_parts
from akpolicy.cli.inspect.journal_file import PREFIX, replay
from akpolicy.cli.inspect.recognise import Signed, Thing, recognise
from akpolicy.cli.inspect.report import Report, not_checked
from akpolicy.cli.inspect.reports import report_on
from akpolicy.cli.inspect.state_file import STATE_FILE, file_checks, journal_of, read_state, state_facts
from akpolicy.durable import TEMP_PREFIX
from akpolicy.errors import UsageError
from akpolicy.proposal import MAX_PROPOSAL_BYTES
from akpolicy.root import Root

if TYPE_CHECKING:
    from typing import Any

EVIDENCE: Final = "evidence"
MAX_FILES: Final = 100_000

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def inspect_directory(path: Path, given: Given) -> Report:
    """Return the report of a state directory; raise `UsageError` if it cannot be read or has no state."""
    report = Report(str(path), "state directory")
    state = _state(path, report, given.now)
    things, unknown = _things(path)
    roots = [t.envelope for _, t in things if isinstance(t, Signed) and _is_root(t)]
    given = replace(given, roots=given.roots or in_order(roots), org=given.org or str(state.get("org", "")))
    for _, thing in things:
        given = with_parts(given, thing)
    report.parts = [report_on(thing, name, given) for name, thing in things]
    report.checks += [not_checked(f"`{name}`: nothing that is known here") for name in unknown]
    report.checks.append(
        not_checked("that the state is the newest one: nothing signs it; the server knows what hosts report")
    )
    return report


def _state(path: Path, report: Report, now: float) -> dict[str, Any]:
    data = _read(path / STATE_FILE)
    if data is None:
        raise UsageError(f"`{path}` has no {STATE_FILE}; a sidecar's state_dir has one")
    state, whole = read_state(data)
    report.checks.append(whole)
    name, digest = journal_of(data)
    if state and name:
        state, replayed = replay(state, name, digest, _read(path / f"{PREFIX}{name}"))
        report.checks.append(replayed)
    report.checks += file_checks(path, state)
    if state:
        report.facts = state_facts(state, now)
        report.data = {"state": state}
    contradictions = [name for name in _names(path / EVIDENCE) if not name.startswith(TEMP_PREFIX)]
    if contradictions:
        report.facts.append(("evidence", f"{len(contradictions)} documents that contradict others"))
    return state


def _names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _things(path: Path) -> tuple[list[tuple[str, Thing]], list[str]]:
    """Return the documents below a directory, signed ones first, and the names of what is none."""
    things: list[tuple[str, Thing]] = []
    unknown: list[str] = []
    for file in _files(path):
        name, data = str(file.relative_to(path)), _read(file)
        if not data:
            continue
        try:
            things.append((name, recognise(data, name)))
        except UsageError:
            unknown.append(name)
    things.sort(key=lambda entry: (not _is_root(entry[1]), not isinstance(entry[1], Signed)))
    return things, unknown


def _is_root(thing: Thing) -> bool:
    return isinstance(thing, Signed) and isinstance(thing.document, Root)


def _files(path: Path) -> Iterator[Path]:
    """Yield the files in the directories of a state directory; what lies beside `state.json` is no document."""
    count = 0
    for directory in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()):
        for file in sorted(directory.iterdir()):
            if file.name.startswith(TEMP_PREFIX):
                continue
            count += 1
            if count > MAX_FILES:
                raise UsageError(f"`{path}` has more than {MAX_FILES} files; is it a state directory?")
            yield file


def _read(file: Path) -> bytes | None:
    """Return a regular file's bytes; None if it is none, or has gone meanwhile. Raises `UsageError`."""
    try:
        descriptor = os.open(file, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise UsageError(f"cannot read `{file}`: {error.strerror}; run as the sidecar's user") from error
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return opened.read(MAX_PROPOSAL_BYTES)
