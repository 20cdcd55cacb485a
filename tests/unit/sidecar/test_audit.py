"""The audit file: whole lines, rotation, and what happens when it cannot be written."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import StartupError
from akpolicy_sidecar.audit import AuditLog

if TYPE_CHECKING:
    from pathlib import Path


class Counts:
    """How many records were written and how many were not."""

    def __init__(self) -> None:
        self.written = 0
        self.failed = 0

    def note_written(self) -> None:
        self.written += 1

    def note_failed(self) -> None:
        self.failed += 1

    def open(self, target: Path | str) -> AuditLog:
        return AuditLog(str(target), written=self.note_written, failed=self.note_failed)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_lines_are_appended_to_a_private_file(tmp_path: Path, counts: Counts) -> None:
    path = tmp_path / "new" / "audit.jsonl"
    for text in (b"1\n", b"2\n"):
        audit = counts.open(path)
        audit.write(text)
        audit.close()

    assert path.read_bytes() == b"1\n2\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (counts.written, counts.failed) == (2, 0)


def test_lines_of_several_threads_stay_whole(tmp_path: Path, counts: Counts) -> None:
    audit = counts.open(tmp_path / "audit")
    line = b"x" * 5000 + b"\n"

    def write_many() -> None:
        for _ in range(50):
            audit.write(line)

    threads = [threading.Thread(target=write_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set((tmp_path / "audit").read_bytes().splitlines(keepends=True)) == {line}


def test_after_a_rotation_the_new_file_is_written(tmp_path: Path, counts: Counts) -> None:
    path = tmp_path / "audit"
    audit = counts.open(path)
    audit.write(b"before\n")
    path.rename(tmp_path / "audit.1")
    audit.reopen()
    audit.write(b"after\n")

    assert (tmp_path / "audit.1").read_bytes() == b"before\n"
    assert path.read_bytes() == b"after\n"


def test_a_rotation_that_fails_keeps_the_old_file(tmp_path: Path, counts: Counts) -> None:
    path = tmp_path / "audit"
    audit = counts.open(path)
    path.rename(tmp_path / "audit.1")
    path.mkdir()
    audit.reopen()
    audit.write(b"still\n")

    assert (tmp_path / "audit.1").read_bytes() == b"still\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110 - evaluated once
def test_a_record_that_cannot_be_written_is_counted(tmp_path: Path, counts: Counts) -> None:
    audit = counts.open(tmp_path / "audit")
    full = os.open("/dev/full", os.O_WRONLY)
    assert audit._descriptor is not None
    os.dup2(full, audit._descriptor)
    audit.write(b"lost\n")

    assert (counts.written, counts.failed) == (0, 1)
    broken = not audit.is_working
    assert broken

    audit.reopen()
    audit.write(b"kept\n")
    assert audit.is_working
    assert (tmp_path / "audit").read_bytes() == b"kept\n"
    os.close(full)


def test_off_writes_nothing(counts: Counts) -> None:
    audit = counts.open("off")
    audit.write(b"dropped\n")
    audit.close()

    assert (counts.written, counts.failed) == (0, 0)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "below a file"])
def test_what_is_no_regular_file_is_refused_at_start(tmp_path: Path, counts: Counts, kind: str) -> None:
    path = tmp_path / "audit"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"")
        path = path / "audit"

    with pytest.raises(StartupError, match="cannot write the audit log"):
        counts.open(path)


def test_a_reader_that_stopped_does_not_stop_decisions(counts: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb", buffering=0) as stdout:
        monkeypatch.setattr("akpolicy_sidecar.audit.sys", SimpleNamespace(stdout=stdout))
        audit = counts.open("-")
        line = b"x" * 999 + b"\n"
        for _ in range(200):
            audit.write(line)
        assert counts.failed == 200 - counts.written > 0

        before = counts.written
        reader.read(before * len(line))
        audit.write(line)
        assert counts.written == before + 1
        assert reader.read(len(line)) == line
        assert audit.is_working
