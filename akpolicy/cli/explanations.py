"""Explanations for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from akpolicy.cli.output import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from akpolicy.engine.explain import Explanation, LayerExplanation, PolicyExplanation


def explanation_json(explanation: Explanation) -> dict[str, object]:
    """Return plain values."""
    kinds = ("applied", "missed", "failed", "left_out")
    return {
        "layers": [
            {
                "scope": layer.scope,
                **{kind: [_policy_json(policy) for policy in getattr(layer, kind)] for kind in kinds},
                "missed_count": layer.missed_count,
                "policy_count": layer.policy_count,
            }
            for layer in explanation.layers
        ],
        "caps": dict(explanation.caps),
    }


def explanation_text(explanation: Explanation) -> str:
    """Return a block of lines a layer, and last what is capped."""
    lines = [line for layer in explanation.layers for line in _layer_lines(layer)]
    lines += [f"  caps      {name} {value}" for name, value in sorted(explanation.caps.items())]
    return "\n".join(lines) if lines else "  no policy decided, so there is nothing to explain"


def _layer_lines(layer: LayerExplanation) -> Iterator[str]:
    applied = f"{len(layer.applied)} of {counted([None] * layer.policy_count, 'policy')} applied"
    yield f"  {layer.scope}: {applied}"
    for policy in layer.applied:
        yield f"    applied   {policy.policy_id} ({policy.effect.value})"
    for policy in layer.failed:
        yield f"    failed    {policy.policy_id} ({policy.effect.value}), line {policy.line}: {policy.because}"
    for policy in layer.left_out:
        yield f"    left out  {policy.policy_id} ({policy.effect.value}): {policy.because}"
    for policy in layer.missed:
        yield f"    missed    {policy.policy_id} ({policy.effect.value}), line {policy.line}: {policy.because}"
    if (more := layer.missed_count - len(layer.missed)) > 0:
        yield f"    and {more} more that do not match"


def _policy_json(policy: PolicyExplanation) -> dict[str, object]:
    return {**asdict(policy), "effect": policy.effect.value}
