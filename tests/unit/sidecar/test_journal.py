"""The journal of the state: read again line by line, and whatever was touched is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy import durable
from akpolicy.errors import CacheCorrupt, CacheStateMissing, CacheWriteFailed
from akpolicy_sidecar import journal
from akpolicy_sidecar.cache import StateDirectory, read_state
from akpolicy_sidecar.state import Change, ConfirmationState, FreshnessState, ScopeState, TimeState
from tests.simulators.messages import check_text
from tests.unit.sidecar.cache_files import fill, reopen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEEN = ConfirmationState(issued_at=1, expires_at=2)


def scope_state(version: int, blob: str | None = None) -> ScopeState:
    return ScopeState(epoch=1, version=version, digest="3" * 64, min_version=1, envelope="4" * 64, blob=blob)


def at(second: int) -> Change:
    return Change(time=TimeState(signed_ms=second * 1000, elapsed_ms=1, boot_id="b"))


def put(directory: StateDirectory, version: int, scope: str = "org/acme", **more: Any) -> None:
    """Keep a version of a scope, with content of its own, as an update does."""
    blob = directory.put_blob(b"%d of %b" % (version, scope.encode()))
    directory.append(Change(scopes={scope: scope_state(version, blob)}, **more))


def file(place: Path) -> Path:
    [found] = place.glob("journal-*")
    return found


def test_what_was_appended_is_read_again(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    put(directory, 1)
    put(directory, 2)
    directory.append(at(5))
    state = directory.state

    assert (state.scopes["org/acme"].version, state.time) == (2, at(5).time)
    assert read_state(place) == state
    assert reopen(directory, place).load() == state


def test_unconfirmed_scopes_gather_until_a_heartbeat_says_which_are_left(
    directory: StateDirectory, place: Path
) -> None:
    fill(directory)
    directory.append(Change(freshness=FreshnessState(common=SEEN, whole=SEEN, unconfirmed=["org/acme/team/a"])))
    put(directory, 1, unconfirmed=["org/acme"])
    assert read_state(place) == directory.state
    assert directory.state.freshness.unconfirmed == ["org/acme", "org/acme/team/a"]

    directory.append(Change(freshness=FreshnessState(common=SEEN, whole=SEEN)))
    assert directory.state.freshness.unconfirmed == []
    assert reopen(directory, place).load() == directory.state


def test_a_change_writes_as_many_bytes_as_it_changes(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    written = (place / "state.json").stat().st_ino
    sizes = []
    for number in range(200):
        before = file(place).stat().st_size
        put(directory, 1, f"org/acme/team/{number:04}")
        sizes.append(file(place).stat().st_size - before)

    assert set(sizes) == {sizes[0]}
    assert sizes[0] < 1000
    assert (place / "state.json").stat().st_ino == written


def test_a_full_journal_is_replaced_by_a_state(
    directory: StateDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MIN_BYTES", 2000)
    fill(directory)
    first = file(place)
    for number in range(40):
        put(directory, 1, f"org/acme/team/{number:04}")
        assert read_state(place) == directory.state

    assert file(place) != first
    assert len(directory.state.scopes) == 41


def test_all_writing_together_grows_with_what_changes(
    directory: StateDirectory, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [0]

    def counting(path: Path, data: bytes) -> None:
        written[0] += len(data) if path.name == "state.json" else 0
        durable.write_atomic(path, data)

    monkeypatch.setattr(journal, "MIN_BYTES", 2000)
    monkeypatch.setattr("akpolicy_sidecar.cache.write_atomic", counting)
    fill(directory)
    for number in range(400):
        put(directory, 1, f"org/acme/team/{number:04}")

    # Each state that is written is twice the one before: all together have as many bytes as two of the last.
    assert written[0] < 3 * (place / "state.json").stat().st_size


def test_the_first_change_of_a_run_begins_a_journal_of_its_own(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    put(directory, 1)
    before = file(place)
    again = reopen(directory, place)
    again.load()

    put(again, 2)

    assert file(place) != before
    assert read_state(place) == again.state


def _cut(data: bytes) -> bytes:
    return data[: data.rindex(b"\n", 0, -1) + 2]


@pytest.mark.parametrize("left", [lambda d: d[:-1], _cut, lambda d: d[:-1].replace(b"\n", b"\n\0") + b"\0" * 9])
def test_a_line_that_power_failed_in_was_never_acknowledged(
    directory: StateDirectory, place: Path, left: Callable[[bytes], bytes]
) -> None:
    fill(directory)
    put(directory, 1)
    before = directory.state
    line = len(file(place).read_bytes())
    put(directory, 2)
    whole = file(place).read_bytes()
    file(place).write_bytes(whole[:line] + left(whole)[line:])

    again = reopen(directory, place)

    assert again.load() == before
    put(again, 3)
    assert reopen(again, place).load().scopes["org/acme"].version == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.replace(b'"version":1', b'"version":9', 1),
        lambda d: d.replace(b'"version":3', b'"version":9', 1),
        lambda d: d.split(b"\n", 1)[1],
        lambda d: b"\n".join(reversed(d.split(b"\n")[:-1])) + b"\n",
        lambda d: d + b"\n",
        lambda d: d + d,
        lambda d: b"\xff\n" + d,
    ],
    ids=["edited", "edited at the end", "first line gone", "order", "empty line", "twice", "no text"],
)
def test_a_damaged_journal_is_corrupt_and_nothing_is_taken_from_it(
    directory: StateDirectory, place: Path, damage: Callable[[bytes], bytes]
) -> None:
    fill(directory)
    for version in (1, 2, 3):
        put(directory, version)
    file(place).write_bytes(damage(file(place).read_bytes()))

    again = reopen(directory, place)

    with pytest.raises(CacheCorrupt, match=r"journal-[0-9a-f]{32}` is damaged: line ") as caught:
        again.load()
    check_text(caught.value.message)
    assert again.state.scopes == {}


def test_a_journal_that_is_gone_is_noticed(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    put(directory, 1)
    file(place).unlink()

    with pytest.raises(CacheStateMissing, match=r"journal-[0-9a-f]{32}` is missing; what was enforced is unknown"):
        reopen(directory, place).load()


def test_the_journal_of_another_state_is_corrupt(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    put(directory, 1)
    other = file(place).read_bytes()
    directory.commit(directory.state)
    file(place).write_bytes(other)

    with pytest.raises(CacheCorrupt, match="line 1"):
        reopen(directory, place).load()


class FullDisk:
    """Stands in for `os`: no file takes more bytes."""

    def __init__(self, os: Any, left: int) -> None:
        self._os = os
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._os, name)

    def write(self, descriptor: int, data: Any) -> int:
        if not self._left:
            raise OSError(28, "No space left on device")
        size: int = self._os.write(descriptor, data[: self._left])
        self._left -= size
        return size


@pytest.mark.parametrize("left", [0, 10])
def test_what_cannot_be_appended_leaves_the_old_state_and_the_next_change_is_whole(
    directory: StateDirectory, place: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    fill(directory)
    put(directory, 1)
    before = directory.state
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", FullDisk(vars(durable)["os"], left))
        for _ in range(2):
            with pytest.raises(CacheWriteFailed, match="No space left on device"):
                directory.append(at(5))
    assert directory.state == before == read_state(place)

    put(directory, 2)

    assert reopen(directory, place).load() == directory.state
    assert directory.state.scopes["org/acme"].version == 2


def test_files_stay_for_one_change_more_than_they_are_named(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    for version in (1, 2, 3):
        put(directory, version)

    kept = {path.read_bytes() for path in (place / "blobs").iterdir()}
    assert kept == {b"some content", b"2 of org/acme", b"3 of org/acme"}


def test_content_that_another_scope_names_stays(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    blob = directory.put_blob(b"shared")
    for scope in ("org/acme/team/a", "org/acme/team/b"):
        directory.append(Change(scopes={scope: scope_state(1, blob)}))
    for version in (2, 3, 4):
        put(directory, version, "org/acme/team/a")

    assert (place / "blobs" / blob).exists()


def test_what_was_written_for_a_refused_update_goes_with_the_next_ones(directory: StateDirectory, place: Path) -> None:
    fill(directory)
    blob = directory.put_blob(b"of an update that could not be kept")
    for version in (1, 2, 3):
        put(directory, version)

    assert not (place / "blobs" / blob).exists()
