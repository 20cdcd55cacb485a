"""Explanations as protobuf messages; rules are those of `akpolicy.wire_authorization`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.engine.explain import Explanation, LayerExplanation, PolicyExplanation
from akpolicy.engine.verdict import Effect
from akpolicy.v1 import authorization_pb2 as pb
from akpolicy.wire_authorization import EFFECTS

if TYPE_CHECKING:
    from collections.abc import Iterable


def explanation_to_proto(explanation: Explanation) -> pb.Explanation:
    """Return the message form."""
    return pb.Explanation(layers=[_layer_to_proto(layer) for layer in explanation.layers], caps=explanation.caps)


def explanation_from_proto(message: pb.Explanation) -> Explanation:
    """Return the domain form. It is for people: an effect that is neither is shown as a denial."""
    return Explanation(tuple(_layer_from_proto(layer) for layer in message.layers), dict(message.caps))


def _layer_to_proto(layer: LayerExplanation) -> pb.LayerExplanation:
    return pb.LayerExplanation(
        scope=layer.scope,
        applied=_policies_to_proto(layer.applied),
        missed=_policies_to_proto(layer.missed),
        failed=_policies_to_proto(layer.failed),
        left_out=_policies_to_proto(layer.left_out),
        missed_count=layer.missed_count,
        policy_count=layer.policy_count,
    )


def _policies_to_proto(policies: Iterable[PolicyExplanation]) -> list[pb.PolicyExplanation]:
    return [
        pb.PolicyExplanation(policy_id=one.policy_id, effect=EFFECTS[one.effect], because=one.because, line=one.line)
        for one in policies
    ]


def _layer_from_proto(message: pb.LayerExplanation) -> LayerExplanation:
    return LayerExplanation(
        message.scope,
        _policies_from_proto(message.applied),
        _policies_from_proto(message.missed),
        _policies_from_proto(message.failed),
        _policies_from_proto(message.left_out),
        message.missed_count,
        message.policy_count,
    )


def _policies_from_proto(messages: Iterable[pb.PolicyExplanation]) -> tuple[PolicyExplanation, ...]:
    return tuple(
        PolicyExplanation(
            one.policy_id, Effect.ALLOW if one.effect == pb.EFFECT_ALLOW else Effect.DENY, one.because, one.line
        )
        for one in messages
    )
