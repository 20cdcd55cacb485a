"""What a sandbox may have of what is asked for: several questions, judged by one view, and what follows from them.

Each question is recorded like any other. The sandbox of the questions has the permission attributes that are asked
for, so that policies can look at them; what a runtime states under these names is replaced.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from akpolicy.engine.default_policy import DEFAULT_SCOPE
from akpolicy.engine.permissions import Effective, inquiries, permissions_from_decision
from akpolicy.engine.request import AuthorizationRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akpolicy.decision import Decision
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.permissions import Inquiry, Permissions
    from akpolicy.engine.request import Principal, Resource
    from akpolicy.engine.verdict import Determining
    from akpolicy_sidecar.authorizer import Authorizer


# Left out where no cap is asked for, and so not to be taken from what is stated.
_CAP_ATTRIBUTES: Final = frozenset({"max_memory_mb", "max_cpu_percent", "seccomp"})


class PermissionAdvisor:
    """Computes permissions. Safe to use from several threads."""

    def __init__(self, authorizer: Authorizer, default_layer: CompiledLayer) -> None:
        """Ask `authorizer`; `default_layer` is the embedded policy."""
        self._authorizer = authorizer
        self._default_layer = default_layer

    def advise(
        self, principal: Principal, resource: Resource, requested: Permissions, *, cwd: str = "", home: str = ""
    ) -> tuple[Effective, list[tuple[Inquiry, Decision]]]:
        """Return what the sandbox may have, and the decisions that it rests on.

        Raises `RequestInvalid` for what cannot be judged.
        """
        attributes = {name: value for name, value in resource.attributes.items() if name not in _CAP_ATTRIBUTES}
        sandbox = replace(resource, attributes=attributes | requested.attributes())
        view = self._authorizer.view()
        decisions = []
        for inquiry in inquiries(requested, cwd=cwd, home=home):
            request = AuthorizationRequest(principal, inquiry.action, sandbox, inquiry.context)
            decisions.append((inquiry, self._authorizer.authorize(request, view)))
        layers = {layer.scope: layer.compiled for layer in view.snapshot.layers}
        layers[DEFAULT_SCOPE] = self._default_layer

        def annotations(policy: Determining) -> Mapping[str, str]:
            return layers[policy.scope].policy(policy.policy_id).annotations

        about = {inquiry.about: decision for inquiry, decision in decisions}
        return permissions_from_decision(requested, about, annotations), decisions
