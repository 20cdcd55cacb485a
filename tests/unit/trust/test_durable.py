"""Our own files: written whole or not at all, never read if others may have touched them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from akpolicy import durable
from akpolicy.durable import (
    TEMP_PREFIX,
    private_directory,
    read_private_file,
    write_atomic,
    write_new_file,
)
from akpolicy.errors import (
    CacheCorrupt,
    CacheHardlink,
    CacheMissing,
    CacheNotRegular,
    CacheSymlink,
    CacheWritableByOthers,
    CacheWriteFailed,
    CacheWrongOwner,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.errors import CacheError
from tests.unit.trust.own_files import NEW, OLD, SOMEBODY, as_root, give_away, run, symlink


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    private_directory(path)
    return path


def read(path: Path) -> bytes:
    return read_private_file(path, max_bytes=10_000)


# --- writing --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again_and_is_private(directory: Path) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)
    write_atomic(target, NEW)
    assert read(target) == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(directory.iterdir()) == [target]


def test_a_liberal_umask_opens_nothing(directory: Path) -> None:
    # A process of its own: the umask belongs to the whole process.
    code = "import os, sys, pathlib; from akpolicy.durable import *; os.umask(0); p = pathlib.Path(sys.argv[1]);"
    run(
        code + "private_directory(p / 'd'); write_atomic(p / 'd' / 'f', b'x'); write_new_file(p / 'd' / 'g', b'x')",
        directory,
    )
    assert stat.S_IMODE((directory / "d").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (directory / "d").iterdir()} == {0o600}


@pytest.mark.parametrize("size", [0, 1, 4096, 1_000_000])
def test_a_write_that_fails_halfway_leaves_the_old_file_and_no_rest(directory: Path, size: int) -> None:
    # The kernel refuses to let a file of that process grow beyond `size`.
    target = directory / "state.json"
    write_atomic(target, OLD)
    code = f"""
import pathlib, resource, signal, sys
from akpolicy.durable import write_atomic
from akpolicy.errors import CacheWriteFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
try:
    write_atomic(pathlib.Path(sys.argv[1]), bytes(2_000_000))
except CacheWriteFailed as error:
    print(error.message)
"""
    assert "nothing was changed" in run(code, target).stdout
    assert read(target) == OLD
    assert list(directory.iterdir()) == [target]


def test_a_new_file_that_cannot_be_written_whole_is_not_there(directory: Path) -> None:
    code = """
import pathlib, resource, signal, sys
from akpolicy.durable import write_new_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    write_new_file(pathlib.Path(sys.argv[1]), bytes(100))
except OSError as error:
    print(type(error).__name__)
"""
    assert run(code, directory / "key").stdout.strip() == "OSError"
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "write"])
def test_a_new_file_that_fails_at_any_step_is_removed(
    directory: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_new_file(directory / "key", NEW)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "rename", "write"])
def test_a_failure_at_any_step_before_the_end_leaves_the_old_file(
    directory: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(CacheWriteFailed, match="nothing was changed"):
        write_atomic(target, NEW)
    monkeypatch.undo()
    assert read(target) == OLD
    assert list(directory.iterdir()) == [target]


def test_a_directory_that_cannot_be_synced_is_not_called_unchanged(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "sync_directory", fail)
    with pytest.raises(CacheWriteFailed, match="may be the old one after a power loss"):
        write_atomic(target, NEW)
    assert read(target) == NEW


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_part(directory: Path) -> None:
    target = directory / "state.json"
    versions = {bytes([number]) * 9000 for number in range(50)}
    write_atomic(target, bytes(9000))
    done = threading.Event()
    seen: set[bytes] = set()

    def keep_reading() -> None:
        while not done.is_set():
            seen.add(read(target))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    for version in sorted(versions):
        write_atomic(target, version)
    done.set()
    reader.join()
    assert seen
    assert seen <= versions


def test_a_write_replaces_a_link_and_does_not_follow_it(directory: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    link = directory / "state.json"
    link.symlink_to(victim)
    write_atomic(link, NEW)
    assert victim.read_bytes() == OLD
    assert not link.is_symlink()
    assert read(link) == NEW


def test_a_new_file_has_what_was_given(directory: Path) -> None:
    write_new_file(directory / "key", NEW)
    assert read(directory / "key") == NEW


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_a_new_file_overwrites_nothing(directory: Path, kind: str) -> None:
    target, other = directory / "key", directory / "other"
    if kind == "file":
        target.write_bytes(OLD)
    else:
        target.symlink_to(other)
    if kind == "link":
        other.write_bytes(OLD)
    with pytest.raises(FileExistsError):
        write_new_file(target, NEW)
    assert other.exists() == (kind == "link")
    assert kind == "dangling link" or target.read_bytes() == OLD


# --- reading --------------------------------------------------------------------------------------------------------


def _hard_link(path: Path) -> None:
    path.with_suffix(".second").hardlink_to(path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def _socket(path: Path) -> None:
    path.unlink()
    # A relative path: the temporary one may be longer than a socket's may be.
    code = "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX).bind(sys.argv[2])"
    run(code, path.parent, Path(path.name))
    assert path.is_socket()


BAD_FILES: list[tuple[str, type[CacheError], Callable[[Path], object]]] = [
    ("oversize", CacheCorrupt, lambda p: p.write_bytes(bytes(10_001))),
    ("missing", CacheMissing, lambda p: p.unlink()),
    ("symlinked file", CacheSymlink, symlink),
    ("readable by the group", CacheWritableByOthers, lambda p: p.chmod(0o640)),
    ("writable by others", CacheWritableByOthers, lambda p: p.chmod(0o602)),
    ("hard link", CacheHardlink, _hard_link),
    ("FIFO", CacheNotRegular, _fifo),
    ("directory", CacheNotRegular, _directory),
    ("socket", CacheNotRegular, _socket),
]


@pytest.mark.parametrize(("error", "spoil"), [c[1:] for c in BAD_FILES], ids=[c[0] for c in BAD_FILES])
def test_a_file_that_others_may_have_touched_is_not_read(
    directory: Path, error: type[CacheError], spoil: Callable[[Path], object]
) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)
    assert read(target) == OLD
    spoil(target)
    with pytest.raises(error) as caught:
        read(target)
    assert type(caught.value) is error
    assert str(target) in caught.value.message


@as_root
def test_a_file_of_another_user_is_not_read(directory: Path) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)
    give_away(target)
    with pytest.raises(CacheWrongOwner, match=f"{target}.* belongs to user {SOMEBODY}, not to user {os.geteuid()} "):
        read(target)


def test_a_device_is_not_read() -> None:
    with pytest.raises(CacheNotRegular):
        read(Path("/dev/null"))


def test_a_file_as_large_as_is_allowed_is_read(directory: Path) -> None:
    target = directory / "state.json"
    write_atomic(target, NEW)
    assert read_private_file(target, max_bytes=len(NEW)) == NEW
    with pytest.raises(CacheCorrupt, match=f"{target}.* has {len(NEW)} bytes, more than {len(NEW) - 1}"):
        read_private_file(target, max_bytes=len(NEW) - 1)


def test_a_file_that_takes_several_reads_is_whole(directory: Path) -> None:
    large = bytes(range(256)) * 10_000
    write_atomic(directory / "blob", large)
    assert read_private_file(directory / "blob", max_bytes=len(large)) == large


def test_a_file_that_grows_while_it_is_read_is_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)
    monkeypatch.setattr(os, "read", lambda _descriptor, _size: bytes(6000))
    with pytest.raises(CacheCorrupt, match=f"{target}.* grew"):
        read(target)


def test_a_disk_that_fails_while_reading_is_a_typed_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = directory / "state.json"
    write_atomic(target, OLD)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(CacheCorrupt, match="Input/output error"):
        read(target)


def test_a_path_through_a_file_is_a_typed_error(directory: Path) -> None:
    write_atomic(directory / "file", OLD)
    with pytest.raises(CacheCorrupt, match=f"cannot open `{directory}/file/below`: Not a directory"):
        read(directory / "file" / "below")


def test_only_a_directory_is_synced_as_one(directory: Path) -> None:
    write_atomic(directory / "file", OLD)
    with pytest.raises(NotADirectoryError):
        durable.sync_directory(directory / "file")


def test_no_rest_of_a_write_looks_like_a_document() -> None:
    # The sweep of a state directory knows them by this prefix; documents are named by hexadecimal digests.
    assert not set(TEMP_PREFIX) <= set("0123456789abcdef")


def test_a_file_that_grows_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"there")
    with pytest.raises(CacheWriteFailed, match="journal"):
        durable.AppendedFile(tmp_path / "journal")
    assert (tmp_path / "journal").read_bytes() == b"there"


def test_a_file_that_grows_knows_how_large_it_is(tmp_path: Path) -> None:
    growing = durable.AppendedFile(tmp_path / "journal")
    sizes = [growing.size]
    for data in (b"one", b"", b"three"):
        growing.append(data)
        sizes.append(growing.size)
    growing.close()
    assert sizes == [0, 3, 3, 8]
    assert (tmp_path / "journal").read_bytes() == b"onethree"


def test_a_file_whose_name_cannot_be_made_durable_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(durable, "sync_directory", fail)
    with pytest.raises(CacheWriteFailed, match="I/O error"):
        durable.AppendedFile(tmp_path / "journal")
    assert list(tmp_path.iterdir()) == []
