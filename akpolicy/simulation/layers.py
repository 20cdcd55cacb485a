"""Layers of policies from files, and the decisions that they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from akpolicy.engine.cedar_request import build
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.decide import judge
from akpolicy.engine.request import foreign_org
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.stack import StackCache
from akpolicy.engine.verdict import Effect, Reason, Verdict
from akpolicy.scope import specificity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.request import AuthorizationRequest
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText

RUNTIME = "runtime"


@dataclass(frozen=True, slots=True)
class Layers:
    """Compiled layers of one org, by scope, and the schema that they were compiled with."""

    org: str
    by_scope: Mapping[str, CompiledLayer]
    schema: CedarSchema
    stacks: StackCache = field(default_factory=lambda: StackCache(SliceCache()), repr=False)

    @classmethod
    def compiled(cls, org: str, policies: Mapping[str, Sequence[PolicyText]], schema: CedarSchema) -> Layers:
        """Compile policies by scope; raise `PolicySetInvalid` for what cannot be enforced."""
        ordered = sorted(policies, key=lambda scope: (specificity(scope), scope))
        return cls(org, {scope: compile_layer(scope, policies[scope], schema) for scope in ordered}, schema)

    def decide(self, request: AuthorizationRequest, *, source: str = RUNTIME) -> Verdict:
        """Decide as a host of the org would that enforces these layers; raise `RequestInvalid`."""
        if foreign_org(request.principal, request.resource, self.org):
            return Verdict(Effect.DENY, Reason.FOREIGN_ORG, f"denied: it is of another org than `{self.org}`")
        query = build(request, org=self.org, source=source)
        layers = tuple(layer for scope, layer in self.by_scope.items() if scope in query.scopes)
        return judge(self.stacks.get(layers, self.schema), query)

    def policies(self) -> Iterator[tuple[str, str]]:
        """Yield every policy, as `<scope>/<policy id>`, with its text."""
        for scope, layer in self.by_scope.items():
            for policy, text in zip(layer.policies, layer.texts, strict=True):
                yield f"{scope}/{policy.id}", text
