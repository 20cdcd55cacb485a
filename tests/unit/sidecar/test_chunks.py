"""Content that comes in pieces."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import describe_content
from akpolicy.errors import ContentTooLarge, StreamProtocolError
from akpolicy_sidecar.chunks import ChunkAssembler


@given(blob=st.binary(min_size=1, max_size=600), cuts=st.lists(st.integers(1, 599), max_size=5))
def test_any_cut_of_the_content_comes_out_whole(blob: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(blob), *(cut for cut in cuts if cut < len(blob))})
    assembler = ChunkAssembler(describe_content(blob, 1), len(blob))

    for start, end in itertools.pairwise(edges):
        assert not assembler.is_complete
        assembler.add(hashlib.sha256(blob).digest(), start, blob[start:end])

    assert assembler.is_complete
    assert assembler.content() == blob


def test_more_than_the_manifest_says_is_refused_before_the_first_byte() -> None:
    with pytest.raises(ContentTooLarge):
        ChunkAssembler(describe_content(b"four", 1), 5)


@pytest.mark.parametrize(("offset", "data"), [(0, b""), (1, b"o"), (0, b"fours")], ids=["empty", "gap", "too long"])
def test_a_chunk_that_does_not_fit_is_refused(offset: int, data: bytes) -> None:
    assembler = ChunkAssembler(describe_content(b"four", 1), 4)

    with pytest.raises(StreamProtocolError):
        assembler.add(hashlib.sha256(b"four").digest(), offset, data)
