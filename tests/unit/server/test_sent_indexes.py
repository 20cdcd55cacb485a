"""How the host at the other end of a stream gets an index: not at all, as what is different, or whole."""

from __future__ import annotations

import pytest

from akpolicy.index import Index, IndexChanges, IndexLine, build_index
from akpolicy.v1 import distribution_pb2
from akpolicy_server.api.greeting import Greeting
from akpolicy_server.api.sent_indexes import SentIndexes

DIGEST = "d" * 64


def index_of(count: int, version: int = 1) -> Index:
    """Return an index of so many teams, the first with this version."""
    return build_index(
        IndexLine(f"org/acme/team/t{number}", 1, version if number == 0 else 1, DIGEST) for number in range(count)
    )


def sent(digest: str = "", *, takes_changes: bool = True) -> SentIndexes:
    return SentIndexes(Greeting("1", 1, (), frozenset(), b"n" * 16, bytes.fromhex(digest), takes_changes))


def added(indexes: SentIndexes, index: Index) -> distribution_pb2.HeartbeatUpdate:
    update = distribution_pb2.HeartbeatUpdate()
    indexes.add_to(update, index)
    return update


def test_the_first_index_comes_whole_and_the_next_as_what_is_different() -> None:
    indexes, first, second = sent(), index_of(30), index_of(31, 2)
    assert added(indexes, first).index == first.text
    assert added(indexes, first) == distribution_pb2.HeartbeatUpdate()

    update = added(indexes, second)

    said = update.index_changes
    assert update.index == b""
    assert said.lines.count(b"\n") == 2
    assert first.with_changes(IndexChanges(said.base.hex(), said.lines, tuple(said.gone))) == second


def test_a_scope_that_is_gone_is_named() -> None:
    indexes = sent()
    added(indexes, index_of(30))

    assert list(added(indexes, index_of(29)).index_changes.gone) == ["org/acme/team/t29"]


def test_what_hello_says_is_there_is_what_the_next_one_begins_with() -> None:
    indexes = sent(index_of(30).digest)
    assert added(indexes, index_of(30)) == distribution_pb2.HeartbeatUpdate()
    assert added(indexes, index_of(30, 2)).HasField("index_changes")


@pytest.mark.parametrize("count", [30, 3000])
def test_one_change_has_as_many_bytes_among_many_scopes(count: int) -> None:
    indexes = sent()
    added(indexes, index_of(count))

    assert added(indexes, index_of(count, 2)).ByteSize() < 150


def test_the_whole_text_comes_where_it_has_to() -> None:
    count = 30
    old = sent(takes_changes=False)
    added(old, index_of(count))
    assert added(old, index_of(count, 2)).index == index_of(count, 2).text

    refused = sent()
    added(refused, index_of(count))
    refused.forget()
    assert added(refused, index_of(count, 2)).index == index_of(count, 2).text

    shorter = sent()
    added(shorter, index_of(count))
    assert added(shorter, index_of(1)).index == index_of(1).text
