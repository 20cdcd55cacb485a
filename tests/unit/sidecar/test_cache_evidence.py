"""Evidence: kept once, never swept, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    CacheCorrupt,
    CacheWriteFailed,
)
from akpolicy_sidecar.cache import (
    MAX_EVIDENCE,
    StateDirectory,
)
from akpolicy_sidecar.state import (
    State,
)

if TYPE_CHECKING:
    from pathlib import Path
from tests.unit.sidecar.cache_files import fill, reopen


def test_evidence_is_kept_once_and_survives_every_sweep(directory: StateDirectory, place: Path) -> None:
    for document in (b"one truth", b"another", b"one truth"):
        directory.put_evidence(document)
    for version in (1, 2, 3):
        fill(directory, version=version, blob=b"content %d" % version)

    assert directory.evidence_count == 2
    assert {path.read_bytes() for path in (place / "evidence").iterdir()} == {b"one truth", b"another"}


def test_evidence_does_not_fill_the_disk(directory: StateDirectory, place: Path) -> None:
    for number in range(MAX_EVIDENCE):
        directory.put_evidence(b"document %d" % number)

    with pytest.raises(CacheWriteFailed, match="look at them and move them away"):
        directory.put_evidence(b"one more")
    directory.put_evidence(b"document 0")

    assert directory.evidence_count == MAX_EVIDENCE


def test_evidence_that_cannot_be_kept_is_an_error_of_the_cache(directory: StateDirectory, place: Path) -> None:
    (place / "evidence").rmdir()

    assert directory.evidence_count == 0
    with pytest.raises(CacheWriteFailed):
        directory.put_evidence(b"a document")


def test_evidence_that_cannot_be_listed_is_an_error_of_the_cache(directory: StateDirectory, place: Path) -> None:
    (place / "evidence").rmdir()
    (place / "evidence").write_bytes(b"")

    with pytest.raises(CacheCorrupt, match=f"cannot list `{place}/evidence`: Not a directory"):
        directory.put_evidence(b"a document")


def test_evidence_alone_does_not_make_a_state_missing(directory: StateDirectory, place: Path) -> None:
    directory.put_evidence(b"a document")

    assert reopen(directory, place).load() == State(format=2, org="acme")
