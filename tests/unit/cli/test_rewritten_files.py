"""Files that are replaced: only the one that was read, with the rights that it had."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy.cli.rewritten_files import RewrittenFile
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT: Final = 1000
# An access list as Linux stores it: version 2; the owner, the user 12345, the group, the mask and all others.
ACCESS: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, 2**32 - 1), (2, 4, 12345), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "d"
    directory.mkdir()
    path = directory / "f"
    path.write_bytes(b"old")
    return path


def edit(path: Path) -> None:
    path.write_bytes(b"new")


def lengthen(path: Path) -> None:
    path.write_bytes(b"older")


def replace(path: Path) -> None:
    (path.parent / "g").write_bytes(b"old")
    (path.parent / "g").rename(path)


def link(path: Path) -> None:
    path.rename(path.parent / "g")
    path.symlink_to(path.parent / "g")


def share(path: Path) -> None:
    os.link(path, path.parent / "g")


def protect(path: Path) -> None:
    path.chmod(0o600)


def remove(path: Path) -> None:
    path.unlink()


def move_directory(path: Path) -> None:
    path.parent.rename(path.parent.parent / "e")
    path.parent.symlink_to(path.parent.parent / "other")
    (path.parent.parent / "other").mkdir()
    os.link(path.parent.parent / "e" / "f", path)
    (path.parent.parent / "e" / "f").unlink()


@pytest.mark.parametrize("change", [edit, lengthen, replace, link, share, protect, remove, move_directory])
def test_what_is_not_as_it_was_read_is_left_alone(file: Path, change: Callable[[Path], None]) -> None:
    read = RewrittenFile.read(file, LIMIT)
    change(file)
    there = file.read_bytes() if file.exists() else None

    with pytest.raises(UsageError):
        read.replace(b"better")

    assert (file.read_bytes() if file.exists() else None) == there
    assert not [path for path in file.parent.iterdir() if path.name.startswith(".")]


def test_mode_and_owner_stay(file: Path) -> None:
    if os.geteuid() == 0:
        os.chown(file, 12345, 54321)
    file.chmod(0o2750)
    before = file.stat()

    RewrittenFile.read(file, LIMIT).replace(b"better")

    after = file.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o2750)
    assert (file.read_bytes(), after.st_ino != before.st_ino) == (b"better", True)


def test_the_access_list_stays(file: Path) -> None:
    try:
        os.setxattr(file, "system.posix_acl_access", ACCESS)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("the file system has no access lists")

    RewrittenFile.read(file, LIMIT).replace(b"better")

    assert os.getxattr(file, "system.posix_acl_access") == ACCESS


def test_a_file_in_the_current_directory_has_a_directory_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)

    RewrittenFile.read(type(file)("f"), LIMIT).replace(b"better")

    assert file.read_bytes() == b"better"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
def test_what_may_not_be_written_is_not_replaced_either(file: Path) -> None:
    file.chmod(0o444)

    with pytest.raises(UsageError, match="Permission denied"):
        RewrittenFile.read(file, LIMIT).replace(b"better")
