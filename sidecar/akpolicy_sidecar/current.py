"""The state while it changes: one change costs what it changes. Whoever needs a `State` waits for one to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akpolicy_sidecar.state import Change, RootState, ScopeState, State


class CurrentState:
    """A state that takes changes. One thread changes it."""

    def __init__(self, state: State) -> None:
        """Begin with a state, which stays as it is."""
        # All but what changes one scope at a time.
        self._others = state.model_copy(update={"scopes": {}})
        self._scopes = dict(state.scopes)
        self._unconfirmed = set(state.freshness.unconfirmed)
        self._whole: State | None = state

    @property
    def root(self) -> RootState | None:
        """What it says of roots. Safe to read from any thread."""
        return self._others.root

    @property
    def state(self) -> State:
        """All of it. To make it takes as long as there are scopes, after each change."""
        if self._whole is None:
            freshness = self._others.freshness.model_copy(update={"unconfirmed": sorted(self._unconfirmed)})
            update = {"scopes": dict(self._scopes), "freshness": freshness}
            self._whole = self._others.model_copy(update=update)
        return self._whole

    def scope(self, scope: str) -> ScopeState | None:
        """Return what it says of a scope."""
        return self._scopes.get(scope)

    def __len__(self) -> int:
        """Return how many scopes it has."""
        return len(self._scopes)

    def take(self, change: Change) -> None:
        """Take a change."""
        self._whole = None
        self._scopes |= change.scopes
        replaced = {"heartbeat": change.heartbeat, "time": change.time, "freshness": change.freshness}
        self._others = self._others.model_copy(update={name: new for name, new in replaced.items() if new is not None})
        if change.freshness is not None:
            self._unconfirmed = set(change.freshness.unconfirmed)
        self._unconfirmed.update(change.unconfirmed)
