"""Content of any size is stored and read as it is, in its transaction."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from akpolicy_server.store.blobs import LARGE_BYTES, PIECE_BYTES, load_blob, store_blob

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core

SEED = 33


def content(size: int) -> tuple[bytes, bytes]:
    """Return a blob and its digest."""
    data = random.Random(SEED).randbytes(size)
    return hashlib.sha256(data).digest(), data


@pytest.mark.parametrize("size", [1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, PIECE_BYTES, 2 * PIECE_BYTES + 7])
def test_a_blob_comes_back_as_it_was(core: Core, size: int) -> None:
    digest, data = content(size)
    with core.database.write() as connection:
        store_blob(connection, digest, data)
        assert load_blob(connection, digest) == data
    with core.database.write() as connection:
        store_blob(connection, digest, b"something else")
    with core.database.read() as connection:
        assert load_blob(connection, digest) == data
        assert load_blob(connection, bytes(32)) is None


@pytest.mark.parametrize("size", [1, LARGE_BYTES])
def test_a_transaction_that_is_undone_leaves_no_blob(core: Core, size: int) -> None:
    digest, data = content(size)
    with core.database.write(keep=False) as connection:
        store_blob(connection, digest, data)
    with core.database.read() as connection:
        assert load_blob(connection, digest) is None
