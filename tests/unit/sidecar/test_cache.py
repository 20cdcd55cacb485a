"""The state directory: what is written is read again, and what was touched is refused."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    CacheCorrupt,
    CacheError,
    CacheHardlink,
    CacheLocked,
    CacheMissing,
    CacheNotRegular,
    CacheStateMissing,
    CacheSymlink,
    CacheWritableByOthers,
    CacheWriteFailed,
    StateDirUnusable,
)
from akpolicy_sidecar.cache import ContactState, RootState, ScopeState, State, StateDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = b"a root envelope"
ENVELOPE = b"a bundle envelope"
BLOB = b"some content"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def directory(place: Path) -> Iterator[StateDirectory]:
    opened = StateDirectory.open(place, "acme")
    yield opened
    opened.close()


def fill(directory: StateDirectory, *, version: int = 1, blob: bytes = BLOB, envelope: bytes = ENVELOPE) -> State:
    """Keep a root and one bundle, as the updater does."""
    root = RootState(version=1, digest="1" * 64, envelope=directory.put_root(1, ROOT))
    digest = directory.put_blob(blob)
    scope = ScopeState(
        epoch=1,
        version=version,
        digest="2" * 64,
        min_version=1,
        envelope=directory.put_envelope(envelope),
        blob=digest,
    )
    contact = ContactState(wall_ms=1_800_000_000_123, elapsed_ms=5, boot_id="b")
    state = State(format=1, org="acme", root=root, scopes={"global": scope}, contact=contact)
    directory.commit(state)
    return state


def kept_root(state: State) -> RootState:
    assert state.root is not None
    return state.root


def reopen(directory: StateDirectory, place: Path, org: str = "acme") -> StateDirectory:
    directory.close()
    return StateDirectory.open(place, org)


def test_what_was_committed_is_read_again(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)

    again = reopen(directory, place)

    assert again.load() == state
    assert again.root(kept_root(state)) == ROOT
    assert again.envelope(state.scopes["global"].envelope) == ENVELOPE
    assert again.blob(hashlib.sha256(BLOB).hexdigest()) == BLOB


def test_a_new_directory_has_an_empty_state(directory: StateDirectory) -> None:
    assert directory.load() == State(format=1, org="acme")


def test_everything_is_private(directory: StateDirectory, place: Path) -> None:
    fill(directory)

    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_sidecar_on_the_same_directory_is_refused(directory: StateDirectory, place: Path) -> None:
    with pytest.raises(CacheLocked, match="in use by another sidecar"):
        StateDirectory.open(place, "acme")


def test_the_lock_ends_with_its_holder(directory: StateDirectory, place: Path) -> None:
    reopen(directory, place).load()


def test_another_orgs_directory_is_refused(directory: StateDirectory, place: Path) -> None:
    fill(directory)

    with pytest.raises(StateDirUnusable, match="belongs to the org `acme`, not to `other`"):
        reopen(directory, place, "other").load()


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"format":2,"org":"acme"}', b'{"format":1,"format":1,"org":"acme"}', b"\xff" * 40],
    ids=["empty", "cut off", "a list", "another format", "a field twice", "no text"],
)
def test_a_damaged_state_is_corrupt_and_nothing_is_taken_from_it(
    directory: StateDirectory, place: Path, damage: bytes
) -> None:
    fill(directory)
    (place / "state.json").write_bytes(damage)

    again = reopen(directory, place)

    with pytest.raises(CacheCorrupt):
        again.load()
    assert again.state == State(format=1, org="acme")


def test_an_oversize_state_is_corrupt(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    (place / "state.json").write_bytes(b" " * (1024 * 1024 + 1))

    with pytest.raises(CacheCorrupt, match="more than"):
        reopen(directory, place).load()


def test_documents_without_a_state_are_noticed(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    (place / "state.json").unlink()

    with pytest.raises(CacheStateMissing):
        reopen(directory, place).load()


@pytest.mark.parametrize("kind", ["roots", "envelopes", "blobs"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "fifo", "link", "hard link", "mode", "other file"])
def test_a_file_that_is_not_what_the_state_names_is_refused(
    directory: StateDirectory, place: Path, kind: str, damage: str
) -> None:
    state = fill(directory)
    path = next((place / kind).iterdir())
    expected = _damage(path, damage, place)

    again = reopen(directory, place)
    again.load()

    reads = {
        "roots": lambda: again.root(kept_root(state)),
        "envelopes": lambda: again.envelope(state.scopes["global"].envelope),
        "blobs": lambda: again.blob(hashlib.sha256(BLOB).hexdigest()),
    }
    with pytest.raises(expected):
        reads[kind]()


def _damage(path: Path, damage: str, place: Path) -> type[CacheError]:
    data = path.read_bytes()
    elsewhere = place.parent / "elsewhere"
    if damage == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "other file":
        path.write_bytes(b"signed, but not this one")
    elif damage == "hard link":
        elsewhere.hardlink_to(path)
        return CacheHardlink
    elif damage == "mode":
        path.chmod(0o640)
        return CacheWritableByOthers
    else:
        return _replace(path, damage, elsewhere)
    return CacheCorrupt


def _replace(path: Path, damage: str, elsewhere: Path) -> type[CacheError]:
    path.rename(elsewhere)
    if damage == "fifo":
        os.mkfifo(path, 0o600)
        return CacheNotRegular
    if damage == "link":
        path.symlink_to(elsewhere)
        return CacheSymlink
    return CacheMissing


def test_files_of_two_states_ago_are_swept(directory: StateDirectory, place: Path) -> None:
    for version in (1, 2, 3):
        fill(directory, version=version, blob=b"content %d" % version, envelope=b"envelope %d" % version)

    kept = {path.read_bytes() for path in (place / "blobs").iterdir()}
    assert kept == {b"content 2", b"content 3"}
    assert {path.read_bytes() for path in (place / "envelopes").iterdir()} == {b"envelope 2", b"envelope 3"}


def test_temporary_files_of_a_crash_are_swept(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    left = [place / ".tmp-1", place / "blobs" / ".tmp-2"]
    for path in left:
        path.write_bytes(b"half")

    reopen(directory, place).load()

    assert not any(path.exists() for path in left)


def test_a_commit_that_cannot_be_written_leaves_the_old_state(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)
    (place / "state.json").unlink()
    (place / "state.json").mkdir()  # nothing can be renamed over a directory

    with pytest.raises(CacheWriteFailed):
        directory.commit(state.model_copy(update={"contact": None}))

    assert directory.state == state
    assert not list(place.glob(".tmp-*"))


def test_a_directory_that_others_can_write_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    place.chmod(0o770)

    with pytest.raises(CacheWritableByOthers):
        StateDirectory.open(place, "acme")


def test_a_linked_directory_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "real")

    with pytest.raises(CacheSymlink):
        StateDirectory.open(place, "acme")


def test_a_linked_lock_is_refused(place: Path, tmp_path: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "lock").symlink_to(tmp_path / "anything")

    with pytest.raises(CacheError):
        StateDirectory.open(place, "acme")
