"""The state directory: what is written is read again, and what was touched is refused."""

from __future__ import annotations

import hashlib
import os
import re
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
from akpolicy.limits import MAX_INDEX_SCOPES, MAX_JSON_INT
from akpolicy.scope import MAX_SCOPE_CHARS
from akpolicy_sidecar import cache
from akpolicy_sidecar.cache import (
    MAX_STATE_BYTES,
    StateDirectory,
    documents,
    read_blob,
    read_envelope,
    read_root,
    read_state,
)
from akpolicy_sidecar.named_files import files_of
from akpolicy_sidecar.state import (
    LIMITS,
    ConfirmationState,
    FreshnessState,
    RootState,
    ScopeState,
    State,
    TimeState,
    encode_state,
)
from tests.simulators.messages import check_text

if TYPE_CHECKING:
    from pathlib import Path
from tests.unit.sidecar.cache_files import BLOB, ENVELOPE, ROOT, fill, reopen


def test_what_was_committed_is_read_again(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)

    again = reopen(directory, place)

    assert again.load() == again.state == state
    assert again.root(1) == ROOT
    kept = again.envelope(state.scopes["global"].envelope)
    assert (kept.data, kept.intact) == (ENVELOPE, True)
    assert again.blob(hashlib.sha256(BLOB).hexdigest()) == BLOB


def test_what_was_committed_can_be_read_without_the_lock(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)

    assert read_state(place) == state
    assert read_root(place, 1) == ROOT
    assert read_envelope(place, state.scopes["global"].envelope).data == ENVELOPE
    assert read_blob(place, hashlib.sha256(BLOB).hexdigest()) == BLOB


def test_a_new_directory_has_no_state_and_gets_an_empty_one(directory: StateDirectory, place: Path) -> None:
    assert read_state(place) is None
    assert directory.load() == State(format=2, org="acme")
    assert read_state(place) == State(format=2, org="acme")


def test_everything_is_private(directory: StateDirectory, place: Path) -> None:
    fill(directory)

    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_sidecar_on_the_same_directory_is_refused(directory: StateDirectory, place: Path) -> None:
    with pytest.raises(CacheLocked, match="in use by another sidecar"):
        StateDirectory.open(place, "acme")


def test_the_lock_ends_with_its_holder(directory: StateDirectory, place: Path) -> None:
    reopen(directory, place).load()


def test_a_directory_that_is_locked_again_believes_nothing_that_it_held_before(
    directory: StateDirectory, place: Path
) -> None:
    fill(directory)
    directory.close()
    (place / "state.json").write_bytes(b"rotten")

    directory.lock_again()

    with pytest.raises(CacheCorrupt):
        directory.load()
    assert directory.state == State(format=2, org="acme")
    with pytest.raises(CacheLocked):
        StateDirectory.open(place, "acme")


def test_another_orgs_directory_is_refused(directory: StateDirectory, place: Path) -> None:
    fill(directory)

    with pytest.raises(StateDirUnusable, match="belongs to the org `acme`, not to `other`"):
        reopen(directory, place, "other").load()


def _sealed(body: bytes) -> bytes:
    """Return what `encode_state` would write of a state that is this text."""
    return b'{"sha256":"%b","state":%b}' % (hashlib.sha256(body).hexdigest().encode(), body)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        encode_state(State(format=2, org="acme"))[:-1],
        encode_state(State(format=2, org="acme")).replace(b"acme", b"acne"),
        State(format=2, org="acme").to_bytes(),
        b'{"format":1,"org":"acme"}',
        b"\xff" * 40,
        _sealed(b'{"format":2,"org":"acme","more":1}'),
        _sealed(b"{"),
    ],
    ids=[
        "empty",
        "cut off",
        "list",
        "one byte less",
        "edited",
        "no digest",
        "older",
        "no text",
        "unknown field",
        "no JSON",
    ],
)
def test_a_damaged_state_is_corrupt_and_nothing_is_taken_from_it(
    directory: StateDirectory, place: Path, damage: bytes
) -> None:
    fill(directory)
    (place / "state.json").write_bytes(damage)

    again = reopen(directory, place)

    with pytest.raises(CacheCorrupt, match=r"state\.json` is damaged: ") as caught:
        again.load()
    check_text(caught.value.message)
    assert again.state == State(format=2, org="acme")


def test_an_oversize_state_is_corrupt(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    (place / "state.json").write_bytes(b" " * (MAX_STATE_BYTES + 1))

    with pytest.raises(CacheCorrupt, match="more than"):
        reopen(directory, place).load()


def test_documents_without_a_state_are_noticed(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    (place / "state.json").unlink()

    with pytest.raises(CacheStateMissing, match=r"state\.json` is missing; what was enforced is unknown"):
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

    def read() -> None:
        if kind == "roots":
            again.root(1)
        elif kind == "envelopes":
            again.envelope(state.scopes["global"].envelope)
        else:
            again.blob(hashlib.sha256(BLOB).hexdigest())

    if expected is None:
        # Signed: what is wrong with it is for the judge to say, who is told that it is not what was kept.
        read()
        assert kind == "roots" or not again.envelope(state.scopes["global"].envelope).intact
        return
    with pytest.raises(expected, match=f"`{path}` "):
        read()


def _damage(path: Path, damage: str, place: Path) -> type[CacheError] | None:
    """Do something to a file; return the error that reading it must raise, None if it can be read."""
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
    return CacheCorrupt if path.parent.name == "blobs" else None


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


def test_a_state_names_every_file_that_it_needs(directory: StateDirectory, place: Path) -> None:
    state = fill(directory, envelope=b"a rollback", original=b"its original")

    assert files_of(state) == documents(place)
    assert len(files_of(state)) == 4


def test_every_root_of_the_chain_is_kept(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    for version in (2, 3):
        directory.put_root(version, b"root %d" % version)
        root = RootState(first=1, version=version, digest="1" * 64, anchors="2" * 64)
        directory.commit(directory.state.model_copy(update={"root": root}))
    fill(directory, version=2, blob=b"other")
    root = RootState(first=1, version=3, digest="1" * 64, anchors="2" * 64)
    directory.commit(directory.state.model_copy(update={"root": root}))

    assert sorted(path.name for path in (place / "roots").iterdir()) == ["00000001", "00000002", "00000003"]


def test_a_commit_that_names_the_same_files_removes_none(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)
    directory.put_blob(b"of an update that is on its way")

    directory.commit(state.model_copy(update={"time": TimeState(signed_ms=1, elapsed_ms=1, boot_id="b")}))

    assert len(list((place / "blobs").iterdir())) == 2


def test_temporary_files_of_a_crash_are_swept(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    left = [place / name / ".tmp-1" for name in (".", "roots", "envelopes", "blobs", "evidence")]
    for path in left:
        path.write_bytes(b"half")

    reopen(directory, place).load()

    assert not any(path.exists() for path in left)


def test_a_commit_that_cannot_be_written_leaves_the_old_state(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)
    (place / "state.json").unlink()
    (place / "state.json").mkdir()  # nothing can be renamed over a directory

    with pytest.raises(CacheWriteFailed):
        directory.commit(state.model_copy(update={"root": None}))

    assert directory.state == state
    assert not list(place.glob(".tmp-*"))


def test_a_state_that_could_not_be_read_again_is_not_written(directory: StateDirectory, place: Path) -> None:
    state = fill(directory)
    many = range(LIMITS.object_fields + 1)
    seen = {f"org/acme/team/{n}": ConfirmationState(issued_at=1, expires_at=2) for n in many}

    with pytest.raises(CacheWriteFailed, match="could not be read again"):
        directory.commit(state.model_copy(update={"freshness": FreshnessState(by_scope=seen)}))

    assert directory.state == state
    assert reopen(directory, place).load() == state


def test_there_is_room_for_as_many_scopes_as_an_index_has() -> None:
    number, digest, count = MAX_JSON_INT, "d" * 64, 100
    most = ScopeState(
        epoch=number,
        version=number,
        digest=digest,
        min_version=number,
        previous_digest=digest,
        envelope=digest,
        original=digest,
        blob=digest,
        engine="e" * 64,
    )
    long = [f"org/acme/team/{n:0{MAX_SCOPE_CHARS - len('org/acme/team/')}}" for n in range(count)]
    seen = ConfirmationState(issued_at=number, expires_at=number)
    state = State(
        format=2,
        org="acme",
        scopes=dict.fromkeys(long, most),
        freshness=FreshnessState(by_scope=dict.fromkeys(long, seen)),
    )

    data = encode_state(state)
    outside_strings = len(re.sub(rb'"[^"]*"', b"", data))

    assert len(data) / count * MAX_INDEX_SCOPES < MAX_STATE_BYTES
    assert outside_strings / count * MAX_INDEX_SCOPES < LIMITS.structure_bytes


def test_a_state_of_the_greatest_size_is_written_and_read(
    directory: StateDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fill(directory)
    size = (place / "state.json").stat().st_size

    monkeypatch.setattr(cache, "MAX_STATE_BYTES", size)
    directory.commit(state)
    assert reopen(directory, place).load() == state
    monkeypatch.setattr(cache, "MAX_STATE_BYTES", size - 1)
    with pytest.raises(CacheWriteFailed, match=f"it has {size} bytes, more than {size - 1}"):
        directory.commit(state)


@pytest.mark.parametrize("lost", ["roots", "envelopes", "blobs"])
def test_a_sweep_that_is_not_possible_does_not_undo_the_commit(
    directory: StateDirectory, place: Path, lost: str
) -> None:
    fill(directory)
    (place / lost).rename(place.parent / "elsewhere")

    emptied = State(format=2, org="acme")
    directory.commit(emptied)

    assert directory.state == emptied
