"""Requests and decisions keep their meaning on the wire, and nothing unclear allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import OfflineMode
from akpolicy.decision import BundleVersion, Decision, Determining, Effect, EvalError, PolicySource, Reason
from akpolicy.engine.limits import MAX_LONG, MAX_VALUE_DEPTH, MIN_LONG
from akpolicy.engine.request import AuthorizationRequest, CedarValue, EntityRef, ExtensionCall, Principal, Resource
from akpolicy.errors import BadAnswer, RequestInvalid
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import (
    EFFECTS,
    OFFLINE_MODES,
    REASONS,
    SOURCES,
    decision_from_proto,
    decision_to_proto,
    request_from_proto,
    request_to_proto,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(MIN_LONG, MAX_LONG),
    TEXTS,
    st.builds(EntityRef, TEXTS, TEXTS),
    st.builds(ExtensionCall, TEXTS, TEXTS),
)
VALUES: st.SearchStrategy[CedarValue] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=3),
    ),
    max_leaves=8,
)
RECORDS = st.dictionaries(TEXTS, VALUES, max_size=4)
NAMES = st.lists(TEXTS, max_size=3).map(tuple)
REQUESTS = st.builds(
    AuthorizationRequest,
    st.builds(Principal, TEXTS, TEXTS, TEXTS, NAMES, NAMES, st.booleans(), RECORDS),
    TEXTS,
    st.builds(Resource, TEXTS, TEXTS, TEXTS, NAMES, RECORDS),
    RECORDS,
)
COUNTS = st.integers(0, 2**63 - 1)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
EFFECTS_WITH_REASON = st.sampled_from(
    [(Effect.ALLOW, Reason.PERMITTED), *((Effect.DENY, r) for r in Reason if r is not Reason.PERMITTED)]
)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    effect, reason = draw(EFFECTS_WITH_REASON)
    return Decision(
        effect=effect,
        reason=reason,
        message=draw(TEXTS),
        determining=draw(
            st.lists(st.builds(Determining, TEXTS, TEXTS, st.sampled_from(Effect)), max_size=3).map(tuple)
        ),
        bundles=draw(st.lists(st.builds(BundleVersion, TEXTS, COUNTS, COUNTS, DIGESTS), max_size=3).map(tuple)),
        mode=draw(st.sampled_from(OfflineMode)),
        source=draw(st.sampled_from(PolicySource)),
        policy_age_ms=draw(st.integers(-1, 2**63 - 1)),
        decision_id=draw(TEXTS),
        evaluation_time_us=draw(COUNTS),
        errors=draw(st.lists(st.builds(EvalError, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple)),
        deciding_layer=draw(TEXTS),
        fresh=draw(st.booleans()),
        stalest_layer=draw(TEXTS),
    )


def request_with(value: CedarValue) -> AuthorizationRequest:
    return AuthorizationRequest(Principal("alice", "acme"), "Run", Resource("box"), {"it": value})


def allowance() -> pb.Decision:
    return decision_to_proto(
        Decision(
            effect=Effect.ALLOW,
            reason=Reason.PERMITTED,
            message="",
            determining=(Determining("org/acme", "p", Effect.ALLOW),),
            bundles=(),
            mode=OfflineMode.FAIL_CLOSED,
            source=PolicySource.LIVE,
            policy_age_ms=0,
            decision_id="",
            evaluation_time_us=0,
        )
    )


@given(REQUESTS)
def test_a_request_arrives_as_it_was_asked(request: AuthorizationRequest) -> None:
    message = pb.AuthorizeRequest.FromString(request_to_proto(request).SerializeToString())
    assert request_from_proto(message) == request


@given(decisions())
def test_a_decision_arrives_as_it_was_made(decision: Decision) -> None:
    message = pb.Decision.FromString(decision_to_proto(decision).SerializeToString())
    assert decision_from_proto(message) == decision


@given(decisions())
def test_only_an_allow_is_allowed(decision: Decision) -> None:
    assert decision.allowed == (decision.effect is Effect.ALLOW)


def test_a_boolean_stays_a_boolean_and_a_number_a_number() -> None:
    request = request_from_proto(request_to_proto(request_with((True, 1))))
    assert [type(value) for value in request.context["it"]] == [bool, int]  # type: ignore[union-attr]


def test_a_list_is_a_set_on_the_wire() -> None:
    assert request_from_proto(request_to_proto(request_with(["a", "b"]))).context["it"] == ("a", "b")


@pytest.mark.parametrize("value", [MAX_LONG + 1, MIN_LONG - 1, "\ud800", {"\ud800": 1}, 0.5, None, b"x", {"a": None}])
def test_what_cedar_has_no_value_for_is_refused_by_name(value: object) -> None:
    with pytest.raises(RequestInvalid, match=r"context\.it") as caught:
        request_to_proto(request_with(value))  # type: ignore[arg-type]
    assert caught.value.field.startswith("context.it")


def test_a_subject_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="surrogate"):
        request_to_proto(AuthorizationRequest(Principal("\udfff", "acme"), "Run", Resource("box")))


def test_a_value_nested_too_deep_is_refused_and_not_recursed_into() -> None:
    value: CedarValue = "x"
    for _ in range(100_000):
        value = (value,)
    with pytest.raises(RequestInvalid, match=f"more than {MAX_VALUE_DEPTH} deep"):
        request_to_proto(request_with(value))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.AuthorizeRequest(context={"a": pb.Value()}), "context.a"),
        (pb.AuthorizeRequest(principal=pb.Principal(attributes={"b": pb.Value()})), "principal.attributes.b"),
        (pb.AuthorizeRequest(resource=pb.Resource(attributes={"c": pb.Value()})), "resource.attributes.c"),
        (
            pb.AuthorizeRequest(
                context={"d": pb.Value(record_value=pb.RecordValue(fields={"e": pb.Value()}))},
            ),
            "context.d.e",
        ),
        (
            pb.AuthorizeRequest(context={"f": pb.Value(set_value=pb.SetValue(elements=[pb.Value()]))}),
            "context.f",
        ),
    ],
)
def test_a_value_without_a_kind_is_refused_by_name(message: pb.AuthorizeRequest, field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        request_from_proto(message)
    assert caught.value.field == field


@pytest.mark.parametrize("effect", [0, 3, 99, -1])
def test_an_unspecified_or_unknown_effect_never_allows(effect: int) -> None:
    message = allowance()
    message.effect = effect  # type: ignore[assignment]
    with pytest.raises(BadAnswer, match="effect"):
        decision_from_proto(message)


@pytest.mark.parametrize("field", ["reason", "mode", "source"])
@pytest.mark.parametrize("number", [0, 99])
def test_an_allowance_that_is_unclear_about_itself_never_allows(field: str, number: int) -> None:
    message = allowance()
    setattr(message, field, number)
    with pytest.raises(BadAnswer, match=field):
        decision_from_proto(message)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.PERMITTED])
def test_an_allowance_for_a_reason_that_denies_never_allows(reason: Reason) -> None:
    message = allowance()
    message.reason = REASONS[reason]
    with pytest.raises(BadAnswer, match=reason.value):
        decision_from_proto(message)


def test_an_empty_decision_never_allows() -> None:
    with pytest.raises(BadAnswer):
        decision_from_proto(pb.Decision())


@pytest.mark.parametrize(
    ("table", "wire"),
    [
        (EFFECTS, pb.Effect),
        (REASONS, pb.ReasonCode),
        (SOURCES, pb.PolicySource),
        (OFFLINE_MODES, None),
    ],
)
def test_every_value_has_its_own_number_and_no_number_is_left_over(
    table: Mapping[Effect | Reason | PolicySource | OfflineMode, int], wire: EnumTypeWrapper | None
) -> None:
    kind = type(next(iter(table)))
    assert set(table) == set(kind)
    assert len(set(table.values())) == len(table)
    assert 0 not in table.values()
    if wire is not None:
        assert {0, *table.values()} == set(wire.values())
