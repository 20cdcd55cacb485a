"""A layer: the policies of one scope, checked and filed by their scopes, ready to decide.

Rules:

- A layer is compiled alone: a change in one scope recompiles that scope only.
- Everything that a publish checks is checked again on each host, here or by the process that goes first.
- A layer keeps texts and an index, and no parsed policies: those are made slice by slice, for what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from akpolicy.engine.check import inspect
from akpolicy.engine.heads import NO_ANNOTATIONS, no_pause, read_heads
from akpolicy.engine.index import ScopeIndex
from akpolicy.engine.tokens import head, pieces
from akpolicy.engine.verdict import Effect
from akpolicy.errors import PolicySetInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

__all__ = ["CompiledLayer", "Effect", "PolicyRef", "compile_layer", "effect_of"]


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """A policy of a layer: its own id, ALLOW for a `permit` and DENY for a `forbid`, its annotations but `@id`."""

    id: str
    effect: Effect
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_ANNOTATIONS)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLayer:
    """The policies of one scope.

    `texts[i]` is that of `policies[i]`, which `index` files under position `i`; `ids` has the position of each id.
    """

    scope: str
    policies: tuple[PolicyRef, ...]
    texts: tuple[str, ...] = field(repr=False)
    index: ScopeIndex = field(repr=False)
    ids: Mapping[str, int] = field(repr=False)
    permit_ids: frozenset[str] = field(repr=False)

    def policy(self, policy_id: str) -> PolicyRef:
        """Return a policy by its id; raise `KeyError` if there is none."""
        return self.policies[self.ids[policy_id]]


def compile_layer(
    scope: str,
    policies: Sequence[PolicyText],
    schema: CedarSchema,
    *,
    checked: bool = False,
    pause: Callable[[], None] = no_pause,
) -> CompiledLayer:
    """Check the policies of `scope`, for example `org/acme`, and file them.

    `checked` says that another process has just found nothing wrong with them (`akpolicy.fence`): checking them again
    would take as long again, and find nothing that decides otherwise. `pause` is called every so often while they are
    filed, for other threads to go on.

    Raises:
        PolicySetInvalid: with every problem that `check_policies` finds.

    """
    problems, heads = ((), read_heads(policies, pause)) if checked else inspect(policies, schema)
    if problems:
        raise PolicySetInvalid(problems)
    refs = tuple(
        PolicyRef(policy.id, head.effect, head.annotations) for policy, head in zip(policies, heads, strict=True)
    )
    return CompiledLayer(
        scope,
        refs,
        tuple(policy.text for policy in policies),
        ScopeIndex([head.keys for head in heads]),
        {ref.id: position for position, ref in enumerate(refs)},
        frozenset(ref.id for ref in refs if ref.effect is Effect.ALLOW),
    )


def effect_of(policy: PolicyText) -> Effect:
    """Return what a parsed policy does: its first word after the annotations is `permit` or `forbid`."""
    outline = next(pieces(policy.text))
    word = head(policy.text, outline.first).effect
    if word not in {"permit", "forbid"}:
        raise RuntimeError(f"policy `{policy.id}` was accepted by Cedar but begins with `{word}`")
    return Effect.ALLOW if word == "permit" else Effect.DENY
