"""For which scopes heartbeats vouch: what is withheld ages, and it ages alone."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.heartbeat import Heartbeat, IndexReference, RootReference
from akpolicy.index import Index, IndexLine, build_index
from akpolicy_sidecar.freshness import (
    MAX_NOT_ENFORCED,
    NOTHING_CONFIRMED,
    Confirmation,
    Confirmations,
    Freshness,
    confirm,
    deliver,
)

START = 1_800_000_000
LIFE = 300
ROOT = RootReference(version=1, digest="0" * 64)
GLOBAL, ACME = "global", "org/acme"


def digest_of(scope: str, version: int) -> str:
    return hashlib.sha256(f"{scope} {version}".encode()).hexdigest()


def index_of(**versions: int) -> Index:
    """Return an index of these versions; `acme` stands for `org/acme`."""
    named = {GLOBAL if name == "everyone" else f"org/{name}": version for name, version in versions.items()}
    return build_index(IndexLine(scope, 1, version, digest_of(scope, version)) for scope, version in named.items())


def heartbeat(index: Index, issued_at: int = START, *, life: int = LIFE) -> Heartbeat:
    reference = IndexReference(digest=index.digest, size=len(index.text))
    return Heartbeat(
        type="heartbeat",
        spec=1,
        org="acme",
        seq=1,
        issued_at=issued_at,
        expires_at=issued_at + life,
        root=ROOT,
        index=reference,
    )


def enforced(**versions: int) -> dict[str, str]:
    """Return the digests of these versions."""
    return {line.scope: line.digest for line in index_of(**versions).lines.values()}


def heard(before: Freshness, index: Index, digests: dict[str, str], at: int = START, *, life: int = LIFE) -> Freshness:
    return confirm(before, heartbeat(index, at, life=life), index, digests)


BOTH = heard(NOTHING_CONFIRMED, index_of(everyone=1, acme=1), enforced(everyone=1, acme=1))


def test_before_the_first_heartbeat_nothing_is_confirmed() -> None:
    assert NOTHING_CONFIRMED.whole is None
    assert NOTHING_CONFIRMED.confirmed_at is None
    assert NOTHING_CONFIRMED.fresh_until == 0
    assert NOTHING_CONFIRMED.stalest == ""


def test_a_heartbeat_vouches_for_what_its_index_names() -> None:
    now = Confirmation(START, START + LIFE)

    assert Freshness({GLOBAL: now, ACME: now}, now) == BOTH
    assert (BOTH.confirmed_at, BOTH.fresh_until) == (START, START + LIFE)


def test_a_scope_that_is_withheld_ages_alone() -> None:
    later = heard(BOTH, index_of(everyone=2, acme=1), enforced(everyone=1, acme=1), START + 100)

    assert later.by_scope[ACME].issued_at == START + 100
    assert later.by_scope[GLOBAL].issued_at == START
    assert later.whole == BOTH.whole
    assert (later.stalest, later.confirmed_at, later.fresh_until) == (GLOBAL, START, START + LIFE)


def test_a_scope_that_is_delivered_is_vouched_for_by_the_heartbeat_that_came_before_it() -> None:
    named = heard(BOTH, index_of(everyone=2, acme=1), enforced(everyone=1, acme=1), START + 100)

    delivered = heard(named, index_of(everyone=2, acme=1), enforced(everyone=2, acme=1), START + 100)

    assert delivered.confirmed_at == START + 100
    assert delivered.whole == Confirmation(START + 100, START + 100 + LIFE)


def test_a_delivery_takes_nothing_back_that_a_longer_lived_heartbeat_said_of_all() -> None:
    both = index_of(everyone=1, acme=1)
    long = heard(NOTHING_CONFIRMED, both, enforced(everyone=1, acme=1), life=10 * LIFE)
    newest = index_of(everyone=2, acme=1)
    named = heard(long, newest, enforced(everyone=1, acme=1), START + 100)

    delivered = deliver(named, heartbeat(newest, START + 100), GLOBAL, vouched=True, is_whole=True)

    assert delivered.whole == Confirmation(START + 100, START + 10 * LIFE)


def test_a_scope_that_the_index_no_longer_names_ages() -> None:
    later = heard(BOTH, index_of(acme=1), enforced(everyone=1, acme=1), START + 100)

    assert (later.stalest, later.confirmed_at) == (GLOBAL, START)
    assert later.by_scope[ACME].issued_at == START + 100


def test_a_scope_that_was_never_delivered_ages_from_the_last_time_that_all_was_there() -> None:
    first = heard(BOTH, index_of(everyone=1, acme=1), enforced(everyone=1, acme=1), START + 50)

    later = heard(first, index_of(everyone=1, acme=1, new=1), enforced(everyone=1, acme=1), START + 100)
    latest = heard(later, index_of(everyone=1, acme=1, new=1), enforced(everyone=1, acme=1), START + 200)

    assert (later.stalest, later.confirmed_at) == ("org/new", START + 50)
    assert (latest.stalest, latest.confirmed_at) == ("org/new", START + 50)


def test_before_all_was_there_once_nothing_is_known_of_the_whole() -> None:
    part = heard(NOTHING_CONFIRMED, index_of(everyone=1, acme=1), enforced(acme=1))

    assert part.whole is None
    assert part.by_scope.keys() == {ACME}


def test_what_is_enforced_and_was_never_in_an_index_is_not_vouched_for() -> None:
    # Signed once, and passed on to this host by somebody else than the server that signs the heartbeats.
    slipped_in = heard(NOTHING_CONFIRMED, index_of(everyone=1), enforced(everyone=1, acme=1))
    assert slipped_in.whole is None

    before = heard(NOTHING_CONFIRMED, index_of(everyone=1), enforced(everyone=1))
    later = heard(before, index_of(everyone=1), enforced(everyone=1, acme=1), START + 100)
    assert (later.whole, later.stalest, later.confirmed_at) == (before.whole, ACME, START)


def test_an_index_with_thousands_of_scopes_that_are_not_here_costs_little_and_ages_as_any_other() -> None:
    many = {f"t{n}": 1 for n in range(5000)}

    later = heard(BOTH, index_of(everyone=1, acme=1, **many), enforced(everyone=1, acme=1), START + 100)

    assert len(later.by_scope) == MAX_NOT_ENFORCED + 2
    assert later.confirmed_at == START
    assert later.by_scope[GLOBAL].issued_at == START + 100


def test_thousands_of_scopes_that_are_not_here_do_not_hide_one_that_comes() -> None:
    many = {f"t{n}": 1 for n in range(5000)}
    flooded = heard(BOTH, index_of(**many), enforced(everyone=1, acme=1), START + 100)

    later = heard(flooded, index_of(everyone=1, new=1), enforced(everyone=1, new=1), START + 200)

    assert later.by_scope["org/new"].issued_at == START + 200


def test_an_empty_index_is_whole() -> None:
    nothing = heard(NOTHING_CONFIRMED, index_of(), {})

    assert nothing.whole == Confirmation(START, START + LIFE)
    assert (nothing.confirmed_at, nothing.fresh_until, nothing.stalest) == (START, START + LIFE, "")


def test_an_older_heartbeat_takes_nothing_back() -> None:
    later = heard(BOTH, index_of(everyone=1, acme=1), enforced(everyone=1, acme=1), START - 50)

    assert later == BOTH


def test_a_shorter_heartbeat_does_not_end_a_longer_one() -> None:
    later = heard(BOTH, index_of(everyone=1, acme=1), enforced(everyone=1, acme=1), START + 1, life=10)

    assert (later.confirmed_at, later.fresh_until) == (START + 1, START + LIFE)


# --- whatever comes ---------------------------------------------------------------------------------------------------

VERSIONS = st.dictionaries(st.sampled_from(["everyone", "acme", "new"]), st.integers(1, 2))
EVENTS = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 3600), VERSIONS, VERSIONS), min_size=1, max_size=6)
Event = tuple[int, int, dict[str, int], dict[str, int]]


def played(events: list[Event]) -> list[Freshness]:
    """Return the freshness after each event: when it was issued, its life, what it names and what is enforced."""
    states = [NOTHING_CONFIRMED]
    for issued_at, life, named, held in events:
        states.append(heard(states[-1], index_of(**named), enforced(**held), START + issued_at, life=life))
    return states


@given(EVENTS)
def test_the_whole_is_confirmed_exactly_when_what_is_named_is_what_is_enforced(events: list[Event]) -> None:
    for (before, after), (issued_at, _, named, held) in zip(pairwise(played(events)), events, strict=True):
        if named == held:
            assert after.whole is not None
            assert after.whole.issued_at >= START + issued_at
        else:
            assert after.whole == before.whole


@given(EVENTS)
def test_exactly_the_scopes_that_fit_are_renewed(events: list[Event]) -> None:
    for (before, after), (issued_at, _, named, held) in zip(pairwise(played(events)), events, strict=True):
        wanted, has = enforced(**named), enforced(**held)
        for scope, seen in after.by_scope.items():
            if wanted.get(scope) is not None and wanted.get(scope) == has.get(scope):
                assert seen.issued_at >= START + issued_at
            else:
                assert seen == before.by_scope.get(scope, before.whole)


@given(EVENTS)
def test_no_confirmation_is_ever_lost_or_made_older(events: list[Event]) -> None:
    for before, after in pairwise(played(events)):
        for scope, seen in before.by_scope.items():
            assert after.by_scope[scope].issued_at >= seen.issued_at
            assert after.by_scope[scope].expires_at >= seen.expires_at


@given(EVENTS)
def test_it_is_as_stale_as_its_stalest_scope(events: list[Event]) -> None:
    for state in played(events)[1:]:
        for seen in state.by_scope.values():
            assert state.confirmed_at is not None
            assert state.confirmed_at <= seen.issued_at
            assert state.fresh_until <= seen.expires_at


@given(EVENTS)
def test_a_heartbeat_makes_nothing_fresh_beyond_its_own_life(events: list[Event]) -> None:
    latest = 0
    for (issued_at, life, _, _), state in zip(events, played(events)[1:], strict=True):
        latest = max(latest, START + issued_at + life)
        assert state.fresh_until <= latest


def test_the_freshness_of_some_scopes_is_theirs_alone() -> None:
    early, late = Confirmation(START, START + LIFE), Confirmation(START + 50, START + 50 + LIFE)
    both = Freshness({GLOBAL: late, "org/acme": early}, early)

    assert both.of({GLOBAL}) == Freshness({GLOBAL: late}, early)
    assert (both.of({GLOBAL}).stalest, both.of({"org/acme"}).stalest) == (GLOBAL, "org/acme")


def test_a_scope_without_a_confirmation_is_named() -> None:
    with pytest.raises(KeyError, match="org/none"):
        Confirmations()["org/none"]


def test_a_confirmation_that_no_scope_has_any_more_counts_for_nothing() -> None:
    members = Confirmations.of({"global": Confirmation(9, 10)}).members
    found = Confirmations(members, Confirmation(1, 2), {"global": Confirmation(9, 10)})

    assert found.distinct == [Confirmation(9, 10)]
    assert Freshness(found, None).confirmed_at == 9
