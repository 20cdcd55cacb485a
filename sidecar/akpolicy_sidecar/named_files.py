"""Which files of the state directory the state names, kept up to date one scope at a time.

Rules:

- Several scopes can name the same content, so names are counted.
- A file stays for one change more than it is named: if power fails, the state before may be the current one again.
- What was written for an update that was refused afterwards is named by nobody, and goes the same way.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy_sidecar.state import ScopeState, State

ROOTS: Final = "roots"
ENVELOPES: Final = "envelopes"
BLOBS: Final = "blobs"


class NamedFiles:
    """The names. One thread uses them."""

    def __init__(self) -> None:
        self._roots: set[str] = set()
        self._counts: Counter[str] = Counter()
        # Written since the last change; and not named any more since the last change.
        self._written: set[str] = set()
        self._leaving: set[str] = set()

    @property
    def all(self) -> set[str]:
        """Every file that the state names, relative to the directory."""
        return self._roots | self._counts.keys()

    def written(self, name: str) -> None:
        """Note that a file was written that a scope is about to name."""
        self._written.add(name)

    def name(self, state: State) -> None:
        """Begin anew with a state; the caller sweeps."""
        before = self.all
        self._roots = set(_roots_of(state))
        self._counts = Counter(name for scope in state.scopes.values() for name in _files_of(scope))
        self._written, self._leaving = set(), before - self.all

    def replace(self, before: ScopeState | None, after: ScopeState) -> set[str]:
        """Note what a scope names from now on; return the files that can be removed."""
        self._counts.update(_files_of(after))
        dropped = set(_files_of(before)) if before is not None else set()
        for name in dropped:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
        unnamed = {name for name in self._leaving if name not in self._counts}
        self._leaving = {name for name in dropped | self._written if name not in self._counts}
        self._written = set()
        return unnamed - self._leaving


def files_of(state: State) -> set[str]:
    """Return the files that a state names, relative to the directory."""
    return {*_roots_of(state), *(name for scope in state.scopes.values() for name in _files_of(scope))}


def root_name(version: int) -> str:
    """Return the file of a root, relative to the directory."""
    return f"{ROOTS}/{version:08d}"


def _roots_of(state: State) -> Iterator[str]:
    if state.root is not None:
        yield from map(root_name, range(state.root.first, state.root.version + 1))


def _files_of(scope: ScopeState) -> set[str]:
    """Return the files of a scope, each once."""
    names = {f"{ENVELOPES}/{digest}" for digest in (scope.envelope, scope.original) if digest}
    return names | {f"{BLOBS}/{scope.blob}"} if scope.blob else names
