"""Files are read again when they changed, however they changed, and not otherwise."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import AkpolicyError, ConfigError
from akpolicy.watched_files import MAX_READS, SETTLING_S, WatchedFiles
from tests.simulators.clock import ManualClock
from tests.simulators.mounted_secret import MountedSecret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def unexpected(error: AkpolicyError) -> None:
    pytest.fail(error.message)


class Reader:
    """Reads files as text, and keeps account. `b"bad"` cannot be used."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.reads = 0
        self.told: list[AkpolicyError] = []
        self.clock = ManualClock()
        self.files = WatchedFiles(paths, self.read, clock=self.clock, failed=self.told.append)

    def read(self, previous: list[bytes] | None) -> list[bytes]:
        self.reads += 1
        try:
            found = [path.read_bytes() for path in self.paths]
        except OSError as error:
            raise ConfigError(f"cannot read: {error.strerror}") from None
        if b"bad" in found:
            raise ConfigError("bad")
        return previous if previous == found else found

    def settle(self) -> None:
        """Let so much time pass that timestamps tell changes apart."""
        self.clock.advance(SETTLING_S)
        self.files.refresh()
        self.clock.advance(SETTLING_S)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    reader = Reader(tmp_path / "one", tmp_path / "two")
    assert reader.files.load() == [b"1", b"2"]
    reader.settle()
    return reader


def test_files_that_did_not_change_are_not_read(reader: Reader) -> None:
    before, reads = reader.files.refresh(), reader.reads
    assert all(reader.files.refresh() is before for _ in range(100))
    assert reader.reads == reads


def rename_over(path: Path) -> None:
    path.with_suffix(".new").write_bytes(b"3")
    path.with_suffix(".new").rename(path)


def link_elsewhere(path: Path) -> None:
    target = path.with_suffix(".target")
    target.write_bytes(b"3")
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize(
    "change", [lambda path: path.write_bytes(b"3"), rename_over, link_elsewhere], ids=["write", "rename", "link"]
)
def test_a_change_is_seen_at_the_next_look(reader: Reader, change: Callable[[Path], object]) -> None:
    change(reader.paths[1])
    assert reader.files.refresh() == [b"1", b"3"]
    assert not reader.told


def test_a_change_of_mode_is_seen(reader: Reader) -> None:
    reads = reader.reads
    reader.paths[0].chmod(0o600)
    reader.files.refresh()
    assert reader.reads > reads


def test_files_behind_a_switched_directory_link_are_seen(tmp_path: Path) -> None:
    secret = MountedSecret(tmp_path / "mount", {"one": b"1", "two": b"2"})
    reader = Reader(secret.directory / "one", secret.directory / "two")
    reader.files.load()
    for number in (b"3", b"4", b"5"):
        reader.settle()
        secret.switch({"one": number, "two": number})
        assert reader.files.refresh() == [number, number]
    assert not reader.told


def test_what_holds_the_same_after_a_change_is_the_same_object(reader: Reader) -> None:
    before, reads = reader.files.refresh(), reader.reads
    rename_over(reader.paths[0])
    reader.paths[0].write_bytes(b"1")
    assert reader.files.refresh() is before
    assert reader.reads > reads


def test_a_second_write_within_one_tick_of_the_file_system_is_seen(tmp_path: Path) -> None:
    # Content that changes while no timestamp does, as a second write of the same size within a tick looks.
    content = [b"first"]
    (tmp_path / "file").touch()
    clock = ManualClock()
    files = WatchedFiles([tmp_path / "file"], lambda _: content[0], clock=clock, failed=unexpected)
    assert files.load() == b"first"
    content[0] = b"second"
    clock.advance(SETTLING_S / 2)
    assert files.refresh() == b"second"
    clock.advance(SETTLING_S)
    content[0] = b"never written"
    assert files.refresh() == b"second"


def test_files_that_change_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen: list[bytes] = []

    def read(_: bytes | None) -> bytes:
        seen.append(path.read_bytes())
        if len(seen) == 1:
            path.write_bytes(b"longer")
        return seen[-1]

    assert WatchedFiles([path], read, clock=ManualClock(), failed=unexpected).load() == b"longer"
    assert seen == [b"old", b"longer"]


def test_files_that_never_rest_are_read_a_bounded_number_of_times_and_again_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    clock = ManualClock()
    reads = 0

    def read(_: int | None) -> int:
        nonlocal reads
        reads += 1
        path.write_bytes(bytes(reads))
        return reads

    files = WatchedFiles([path], read, clock=clock, failed=unexpected)
    assert files.load() == MAX_READS
    clock.advance(SETTLING_S)
    assert files.refresh() == 2 * MAX_READS


# --- what cannot be used ----------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_told_once_and_what_was_read_before_stays(reader: Reader) -> None:
    before = reader.files.refresh()
    for _ in range(2):
        reader.paths[0].write_bytes(b"bad")
        for _ in range(5):
            assert reader.files.refresh() is before
            assert not reader.files.are_usable
        reader.settle()
        assert reader.files.refresh() is before
    assert [error.message for error in reader.told] == ["bad", "bad"]
    reader.paths[0].write_bytes(b"good")
    assert reader.files.refresh() == [b"good", b"2"]
    assert reader.files.are_usable


def test_a_file_that_is_gone_is_told_once_and_taken_up_when_it_is_back(reader: Reader) -> None:
    before = reader.files.refresh()
    away = reader.paths[0].with_suffix(".away")
    reader.paths[0].rename(away)
    assert reader.files.refresh() is before
    reader.settle()
    assert reader.files.refresh() is before
    assert len(reader.told) == 1
    away.rename(reader.paths[0])
    assert reader.files.refresh() is before
    assert reader.files.are_usable


def test_before_anything_could_be_used_there_is_nothing(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "missing")
    with pytest.raises(ConfigError, match="cannot read"):
        reader.files.load()
    assert reader.files.refresh() is None
    assert not reader.files.are_usable
    (tmp_path / "missing").write_bytes(b"here")
    assert reader.files.refresh() == [b"here"]


def test_no_files_never_change() -> None:
    reader = Reader()
    before = reader.files.load()
    assert reader.files.refresh() is before


def test_threads_see_one_content_after_the_other_and_never_a_mixture(tmp_path: Path) -> None:
    secret = MountedSecret(tmp_path / "mount", {"one": b"0", "two": b"0"})
    reader = Reader(secret.directory / "one", secret.directory / "two")

    def read(previous: list[bytes] | None) -> list[bytes]:
        found = reader.read(previous)
        if found[0] != found[1]:
            raise ConfigError("a mixture")
        return found

    files = WatchedFiles(reader.paths, read, clock=reader.clock, failed=lambda _: None)
    files.load()
    seen: list[list[bytes]] = []
    done = threading.Event()

    def look() -> None:
        mine: list[int] = []
        while not done.is_set():
            found = files.refresh()
            assert found is not None
            mine.append(int(found[0]))
            assert found[0] == found[1]
        assert mine == sorted(mine)
        seen.append(found or [])

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 200):
        secret.switch(dict.fromkeys(("one", "two"), str(number).encode()))
    files.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert len(seen) == len(threads)
    assert files.refresh() == [b"199", b"199"]
