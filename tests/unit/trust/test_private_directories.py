"""Directories of our own: nobody else may put another one in their place."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from akpolicy.durable import (
    check_private_directory,
    private_directory,
)
from akpolicy.errors import (
    CacheCorrupt,
    CacheMissing,
    CacheNotRegular,
    CacheSymlink,
    CacheWritableByOthers,
    CacheWriteFailed,
    CacheWrongOwner,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.errors import CacheError
from tests.unit.trust.own_files import SOMEBODY, as_root, give_away, run, symlink


def test_a_private_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    private_directory(path)
    private_directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def _file_at(path: Path) -> None:
    path.rmdir()
    path.write_bytes(b"")


def _file_above(path: Path) -> None:
    path.rmdir()
    _file_at(path.parent)


BAD_DIRECTORIES: list[tuple[str, type[CacheError], Callable[[Path], object]]] = [
    ("symlinked directory", CacheSymlink, symlink),
    ("symlinked parent", CacheSymlink, lambda p: symlink(p.parent)),
    ("symlinked grandparent", CacheSymlink, lambda p: symlink(p.parent.parent)),
    ("readable by the group", CacheWritableByOthers, lambda p: p.chmod(0o750)),
    ("writable by others", CacheWritableByOthers, lambda p: p.chmod(0o777)),
    ("ancestor writable by others", CacheWritableByOthers, lambda p: p.parent.parent.chmod(0o777)),
    ("ancestor writable by the group", CacheWritableByOthers, lambda p: p.parent.chmod(0o770)),
    ("a file in its place", CacheNotRegular, _file_at),
    ("a file above it", CacheWriteFailed, _file_above),
]


@pytest.mark.parametrize(("error", "spoil"), [c[1:] for c in BAD_DIRECTORIES], ids=[c[0] for c in BAD_DIRECTORIES])
def test_a_directory_that_others_could_replace_is_not_used(
    tmp_path: Path, error: type[CacheError], spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / "a" / "b" / "state"
    private_directory(path)
    spoil(path)
    with pytest.raises(error) as caught:
        private_directory(path)
    assert type(caught.value) is error
    assert f"`{tmp_path}" in caught.value.message


@pytest.mark.parametrize(
    ("error", "spoil"), [c[1:] for c in BAD_DIRECTORIES[:-1]], ids=[c[0] for c in BAD_DIRECTORIES[:-1]]
)
def test_a_directory_is_checked_alike_where_none_may_be_made(
    tmp_path: Path, error: type[CacheError], spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / "a" / "b" / "state"
    private_directory(path)
    check_private_directory(path)
    spoil(path)
    with pytest.raises(error) as caught:
        check_private_directory(path)
    assert type(caught.value) is error
    assert f"`{tmp_path}" in caught.value.message


def test_a_check_makes_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "a" / "state"
    with pytest.raises(CacheMissing, match=f"the directory `{path}` is not there"):
        check_private_directory(path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(CacheCorrupt, match=f"cannot examine the directory `{path}`: Not a directory"):
        check_private_directory(path)
    with pytest.raises(CacheSymlink, match=r"\.\."):
        check_private_directory(tmp_path / ".." / "state")


@as_root
@pytest.mark.parametrize("level", [0, 1, 2], ids=["directory", "parent", "grandparent"])
def test_a_directory_of_another_user_is_not_used(tmp_path: Path, level: int) -> None:
    path = tmp_path / "a" / "b" / "state"
    private_directory(path)
    theirs = [path, *path.parents][level]
    give_away(theirs)
    with pytest.raises(CacheWrongOwner, match=f"`{theirs}`.* belongs to user {SOMEBODY}"):
        private_directory(path)


@as_root
def test_ancestors_may_belong_to_root_whoever_we_are() -> None:
    code = f"""
import os, pathlib, shutil, tempfile
from akpolicy.durable import private_directory
os.setgid({SOMEBODY})
os.setuid({SOMEBODY})
ours = pathlib.Path(tempfile.mkdtemp(dir="/tmp"))
try:
    private_directory(ours / "state")
    print("made")
finally:
    shutil.rmtree(ours)
"""
    assert run(code).stdout == "made\n"


@as_root
def test_ancestors_may_belong_to_root_where_the_directory_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    private_directory(path)
    give_away(path)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    private_directory(path)


def test_a_sticky_ancestor_is_allowed_like_tmp(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o1777)
    private_directory(tmp_path / "a" / "state")


def test_a_path_that_goes_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheSymlink, match=r"state` contains `\.\.`; name the real path"):
        private_directory(tmp_path / "a" / ".." / "state")
