"""A state directory with documents in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy_sidecar.cache import (
    StateDirectory,
)
from akpolicy_sidecar.state import (
    RootState,
    ScopeState,
    State,
)

if TYPE_CHECKING:
    from pathlib import Path

ROOT = b"a root envelope"
ENVELOPE = b"a bundle envelope"
BLOB = b"some content"


def fill(
    directory: StateDirectory,
    *,
    version: int = 1,
    blob: bytes = BLOB,
    envelope: bytes = ENVELOPE,
    original: bytes | None = None,
) -> State:
    """Keep a root and one bundle or rollback, as the updater does."""
    directory.put_root(1, ROOT)
    digest = directory.put_blob(blob)
    scope = ScopeState(
        epoch=1,
        version=version,
        digest="2" * 64,
        min_version=1,
        envelope=directory.put_envelope(envelope),
        original=directory.put_envelope(original) if original else None,
        blob=digest,
    )
    root = RootState(first=1, version=1, digest="1" * 64, anchors="2" * 64)
    state = State(format=2, org="acme", root=root, scopes={"global": scope})
    directory.commit(state)
    return state


def reopen(directory: StateDirectory, place: Path, org: str = "acme") -> StateDirectory:
    directory.close()
    return StateDirectory.open(place, org)
