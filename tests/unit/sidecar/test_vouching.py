"""What differs, kept up to date one scope at a time, comes to the same as a comparison of everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from akpolicy_sidecar.freshness import NOTHING_CONFIRMED, Freshness, confirm
from akpolicy_sidecar.state import FreshnessState
from akpolicy_sidecar.vouching import Vouching
from tests.unit.sidecar.test_freshness import START, digest_of, heartbeat, index_of

NAMES = ["everyone", "acme", "acme/team/a", "acme/user/b"]
VERSIONS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2))
SCOPES = st.sampled_from(["global", "org/acme", "org/acme/team/a", "org/acme/user/b"])
STEPS = st.lists(
    st.tuples(st.just("beat"), st.tuples(st.integers(0, 1000), st.integers(1, 3600), VERSIONS))
    | st.tuples(st.just("put"), st.tuples(SCOPES, st.integers(1, 2)))
    | st.tuples(st.just("drop"), SCOPES)
    | st.tuples(st.just("restart"), st.none()),
    max_size=12,
)


class Both:
    """The same life, compared step by step and compared as a whole."""

    def __init__(self) -> None:
        self.vouching = Vouching()
        self.whole: Freshness = NOTHING_CONFIRMED
        self.enforced: dict[str, str] = {}
        self.accepted: set[str] = set()
        self.last: tuple[int, int, dict[str, int]] | None = None

    def beat(self, issued_at: int, life: int, named: dict[str, int]) -> None:
        self.last, index = (issued_at, life, named), index_of(**named)
        beat = heartbeat(index, START + issued_at, life=life)
        freshness, differing = self.vouching.renewed(beat, index)
        self.vouching.believe(beat, index, freshness, differing)
        self.whole = confirm(self.whole, beat, index, self.enforced)

    def put(self, scope: str, version: int) -> None:
        digest = digest_of(scope, version)
        self.accepted.add(scope)
        self.enforced[scope] = digest
        freshness = self.vouching.with_document(scope, digest)
        self.vouching.deliver(freshness)
        self.vouching.enforce(scope, digest)
        if self.last is not None:
            issued_at, life, named = self.last
            index = index_of(**named)
            self.whole = confirm(self.whole, heartbeat(index, START + issued_at, life=life), index, self.enforced)

    def drop(self, scope: str) -> None:
        self.enforced.pop(scope, None)
        self.vouching.enforce(scope, None)

    def restart(self) -> None:
        kept = FreshnessState.of(self.vouching.freshness, self.accepted)
        self.vouching, self.last = Vouching(), None
        self.vouching.begin(kept.freshness(self.accepted), kept.unconfirmed)
        for scope in self.accepted:
            self.vouching.enforce(scope, self.enforced.get(scope))


@settings(max_examples=400)
@given(STEPS)
def test_step_by_step_comes_to_the_same_as_all_at_once(steps: list[tuple[str, object]]) -> None:
    both = Both()
    for kind, given_ in steps:
        arguments = given_ if isinstance(given_, tuple) else (given_,) if given_ is not None else ()
        getattr(both, kind)(*arguments)
        assert both.vouching.freshness == both.whole, kind
    if both.last is not None:
        named = index_of(**both.last[2]).lines
        lacking = sorted(scope for scope, line in named.items() if line.digest != both.enforced.get(scope))
        assert both.vouching.lacking == lacking
    else:
        assert both.vouching.lacking == []
