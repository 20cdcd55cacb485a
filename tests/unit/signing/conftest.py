"""Tokens for tests that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.signing import pkcs11_token
from tests.simulators.tokens import SoftTokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftTokens]:
    """A directory with one token; every signer must be closed at the end."""
    made = SoftTokens(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    made.add()
    yield made
    left = list(pkcs11_token._connections)
    made.end()
    assert left == []
