"""What the server is told of what is enforced: all of it in the end, in messages of bounded size, nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from akpolicy.decision import BundleVersion
from akpolicy_sidecar import said
from akpolicy_sidecar.enforcement import NO_REVISIONS
from akpolicy_sidecar.said import MAX_ENDED, MAX_SAID_BYTES, Said

if TYPE_CHECKING:
    from akpolicy.v1.bundle_pb2 import Revision
    from akpolicy_sidecar.enforcement import Revisions


def mapped(*bundles: BundleVersion) -> Revisions:
    """Return revisions as the enforcement has them."""
    found = NO_REVISIONS
    for bundle in bundles:
        found = found.put(bundle.scope, bundle)
    return found


BUNDLES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3), max_size=6).map(
    lambda versions: mapped(*(BundleVersion(f"org/x/team/{name}", 1, v, f"{v:064x}") for name, v in versions.items()))
)


def told(known: dict[str, int], said_now: tuple[list[Revision], list[str]]) -> dict[str, int]:
    revisions, ended = said_now
    kept = {scope: version for scope, version in known.items() if scope not in ended}
    return kept | {revision.scope: revision.version for revision in revisions}


def versions(bundles: Revisions) -> dict[str, int]:
    return {scope: bundle.version for scope, bundle in bundles.items()}


@given(st.lists(BUNDLES, min_size=1, max_size=5))
def test_who_hears_every_answer_knows_what_is_enforced(states: list[Revisions]) -> None:
    speaker = Said()
    known = told({}, (speaker.begin(states[0]), []))
    assert known == versions(states[0])
    for state in states[1:]:
        known = told(known, speaker.news(state))
        assert known == versions(state)
        assert speaker.news(state) == ([], [])


def test_nothing_is_said_twice() -> None:
    speaker = Said()
    first, second = (BundleVersion("global", 1, version, f"{version:064x}") for version in (1, 2))
    assert [r.version for r in speaker.begin(mapped(first))] == [1]

    assert [r.version for r in speaker.news(mapped(second))[0]] == [2]
    assert speaker.news(mapped(second)) == ([], [])
    assert speaker.news(mapped(BundleVersion("global", 1, 2, f"{2:064x}"))) == ([], [])


def test_what_does_not_fit_comes_with_later_answers() -> None:
    many = mapped(*(BundleVersion(f"org/acme/team/{n:0400}", 1, 1, "d" * 64) for n in range(4000)))
    speaker = Said()
    known = told({}, (speaker.begin(many), []))
    assert 0 < len(known) < len(many)
    while known != versions(many):
        before = len(known)
        known = told(known, speaker.news(many))
        assert before < len(known) <= before + MAX_SAID_BYTES // 400

    while known:
        before = len(known)
        known = told(known, speaker.news(NO_REVISIONS))
        assert before - MAX_ENDED <= len(known) < before


def test_the_sizes_suit_each_other() -> None:
    assert said.MAX_HELD_BLOBS == 1024
