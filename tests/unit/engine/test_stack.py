"""Layers of a request: which permits count, and which are replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.cedar_request import CedarRequest, build
from akpolicy.engine.decide import Effect, Reason, decide
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.stack import StackCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.schema import CedarSchema
    from tests.unit.engine.conftest import MakeLayer

GLOBAL, ORG, RED, BLUE, USER = "global", "org/acme", "org/acme/team/red", "org/acme/team/blue", "org/acme/user/alice"
ORDER = (GLOBAL, ORG, RED, BLUE, USER)
ANYTHING, NOTHING = "", "when { false }"


def permit(policy_id: str, condition: str = ANYTHING) -> str:
    return f'@id("{policy_id}") permit (principal, action, resource) {condition};'


def forbid(policy_id: str, condition: str = ANYTHING) -> str:
    return f'@id("{policy_id}") forbid (principal, action, resource) {condition};'


def ask(teams: tuple[str, ...] = (), of_resource: tuple[str, ...] = ()) -> CedarRequest:
    principal = Principal("alice", "acme", teams=teams)
    resource = Resource("box", teams=of_resource, attributes={"agent_type": "claude", "runtime": "python"})
    return build(AuthorizationRequest(principal, "Run", resource), org="acme", source="runtime")


class Decider:
    """Decides by the texts of layers, those that apply to a request."""

    def __init__(self, schema: CedarSchema, make_layer: MakeLayer) -> None:
        self._schema = schema
        self._make_layer = make_layer

    def layers(self, texts: Mapping[str, str], request: CedarRequest) -> list[CompiledLayer]:
        return [self._make_layer(texts[scope], scope) for scope in ORDER if scope in texts and scope in request.scopes]

    def __call__(self, texts: Mapping[str, str], request: CedarRequest) -> tuple[str, str, list[str]]:
        """Return effect, deciding layer and determining policies."""
        verdict = decide(self.layers(texts, request), request, self._schema)
        named = [f"{policy.scope}/{policy.policy_id}" for policy in verdict.determining]
        return verdict.effect.value, verdict.deciding_layer, named


@pytest.fixture(scope="session")
def decider(schema: CedarSchema, make_layer: MakeLayer) -> Decider:
    return Decider(schema, make_layer)


def test_the_layers_of_a_request_are_global_org_teams_and_user() -> None:
    assert ask(("red", "blue")).scopes == ORDER
    assert ask().scopes == (GLOBAL, ORG, USER)


@pytest.mark.parametrize("narrow", [ORG, USER])
def test_a_narrower_policy_replaces_a_permit_with_its_id(decider: Decider, narrow: str) -> None:
    assert decider({GLOBAL: permit("x"), narrow: permit("x", NOTHING)}, ask()) == ("deny", "", [])
    assert decider({GLOBAL: permit("x"), narrow: permit("x")}, ask()) == ("allow", narrow, [f"{narrow}/x"])


def test_a_forbid_replaces_a_permit_with_its_id_and_forbids(decider: Decider) -> None:
    assert decider({GLOBAL: permit("x"), ORG: forbid("x", NOTHING)}, ask()) == ("deny", "", [])


def test_a_forbid_is_never_replaced(decider: Decider) -> None:
    assert decider({GLOBAL: forbid("x"), USER: permit("x")}, ask()) == ("deny", GLOBAL, ["global/x"])


def test_a_replaced_permit_does_not_even_err(decider: Decider, schema: CedarSchema) -> None:
    texts = {GLOBAL: permit("x", "when { 9223372036854775807 + 1 == 0 }"), ORG: permit("x")}

    assert decide(decider.layers(texts, ask()), ask(), schema).errors == ()


def test_a_user_replaces_what_the_team_permits(decider: Decider) -> None:
    texts = {RED: permit("x"), USER: permit("x", NOTHING)}

    assert decider(texts, ask(("red",))) == ("deny", "", [])


def test_a_team_replaces_for_its_members_only(decider: Decider) -> None:
    texts = {ORG: permit("x"), RED: permit("x", NOTHING)}

    assert decider(texts, ask(("red",))) == ("deny", "", [])
    assert decider(texts, ask()) == ("allow", ORG, ["org/acme/x"])


@pytest.mark.parametrize("other_has_a_layer", [True, False])
def test_a_team_does_not_replace_what_comes_through_another_team(decider: Decider, other_has_a_layer: bool) -> None:
    texts = {ORG: permit("x"), RED: permit("x", NOTHING)}
    if other_has_a_layer:
        texts[BLUE] = permit("y", NOTHING)

    assert decider(texts, ask(("red", "blue"))) == ("allow", ORG, ["org/acme/x"])


def test_what_every_team_replaces_is_replaced(decider: Decider) -> None:
    texts = {ORG: permit("x"), RED: permit("x", NOTHING), BLUE: permit("x", NOTHING)}

    assert decider(texts, ask(("red", "blue"))) == ("deny", "", [])


def test_teams_do_not_replace_each_other(decider: Decider) -> None:
    texts = {RED: permit("x"), BLUE: permit("x", NOTHING)}

    assert decider(texts, ask(("red", "blue"))) == ("allow", RED, [f"{RED}/x"])


@pytest.mark.parametrize(
    ("of_resource", "allowed"), [((), True), (("red",), True), (("red", "blue"), True), (("blue",), False)]
)
def test_a_teams_permit_counts_for_resources_of_that_team_or_of_none(
    decider: Decider, of_resource: tuple[str, ...], allowed: bool
) -> None:
    expected = ("allow", RED, [f"{RED}/x"]) if allowed else ("deny", "", [])

    assert decider({RED: permit("x")}, ask(("red",), of_resource)) == expected


def test_a_teams_forbid_counts_for_every_resource(decider: Decider) -> None:
    texts = {ORG: permit("o"), RED: forbid("x")}

    assert decider(texts, ask(("red",), ("blue",))) == ("deny", RED, [f"{RED}/x"])


def test_a_team_that_does_not_contribute_replaces_nothing(decider: Decider) -> None:
    texts = {ORG: permit("x"), RED: permit("x")}

    assert decider(texts, ask(("red",), ("blue",))) == ("allow", ORG, ["org/acme/x"])


def test_teams_that_decide_together_are_all_named(decider: Decider) -> None:
    texts = {ORG: permit("o"), RED: permit("r"), BLUE: permit("b")}

    effect, deciding, named = decider(texts, ask(("red", "blue")))

    assert (effect, deciding) == ("allow", f"{RED}, {BLUE}")
    assert named == ["org/acme/o", f"{RED}/r", f"{BLUE}/b"]


def test_an_action_in_a_slice_of_one_plan_is_not_taken_for_another(schema: CedarSchema, decider: Decider) -> None:
    """One cache for all: the same policies reached, but another team contributes."""
    texts = {ORG: permit("x"), RED: permit("x", NOTHING)}
    member, foreign = ask(("red",)), ask(("red",), ("blue",))
    stacks, layers = StackCache(SliceCache()), tuple(decider.layers(texts, member))

    slices = [stacks.get(layers, schema).slice_for(request) for request in (member, foreign, member, foreign)]

    assert [[policy.scope for policy in one.policies] for one in slices] == [[RED], [ORG]] * 2
    assert (slices[0], slices[1]) == (slices[2], slices[3])


# --- against the rules, written down once more ------------------------------------------------------------------------

_POLICY = st.tuples(st.sampled_from("xyz"), st.sampled_from([Effect.ALLOW, Effect.DENY]), st.booleans())
_LAYER = st.lists(_POLICY, min_size=1, max_size=3, unique_by=lambda policy: policy[0])
_TEAMS = st.sampled_from([(), ("red",), ("blue",), ("red", "blue")])

_Layer = list[tuple[str, Effect, bool]]


def counting(layers: dict[str, _Layer], teams: tuple[str, ...], of_resource: tuple[str, ...]) -> set[str]:
    """Return what matches, by the rules: forbids of all layers, permits that count."""
    contributing = [f"org/acme/team/{team}" for team in teams if not of_resource or team in of_resource]
    found = set()
    for at, scope in enumerate(ORDER):
        if scope.rsplit("/", 1)[-1] in {"red", "blue"} and scope.rsplit("/", 1)[-1] not in teams:
            continue
        for name, effect, matches in layers.get(scope, []):
            if effect is Effect.ALLOW:
                if scope in {RED, BLUE} and scope not in contributing:
                    continue
                has = {s: name in [policy[0] for policy in layers.get(s, [])] for s in ORDER}
                if any(has[s] for s in ORDER[at + 1 :] if s not in {RED, BLUE}):
                    continue
                if scope not in {RED, BLUE} and scope != USER and contributing and all(has[s] for s in contributing):
                    continue
            if matches:
                found.add(f"{effect.value} {scope}/{name}")
    return found


@given(layers=st.dictionaries(st.sampled_from(ORDER), _LAYER, min_size=1), teams=_TEAMS, of_resource=_TEAMS)
def test_layers_decide_by_the_rules(
    layers: dict[str, _Layer],
    teams: tuple[str, ...],
    of_resource: tuple[str, ...],
    schema: CedarSchema,
    decider: Decider,
) -> None:
    texts = {
        scope: "\n".join(
            (permit if effect is Effect.ALLOW else forbid)(name, ANYTHING if matches else NOTHING)
            for name, effect, matches in policies
        )
        for scope, policies in layers.items()
    }
    request = ask(teams, of_resource)

    verdict = decide(decider.layers(texts, request), request, schema)

    expected = counting(layers, teams, of_resource)
    forbids = {one for one in expected if one.startswith("deny")}
    named = {f"{policy.effect.value} {policy.scope}/{policy.policy_id}" for policy in verdict.determining}
    assert named == (forbids or expected)
    assert (verdict.effect is Effect.ALLOW) == (not forbids and bool(expected))
    assert verdict.reason is not Reason.EVALUATION_ERROR
