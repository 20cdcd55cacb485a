"""The policy that ships with the package, for the offline mode `default_policy`.

Rules:

- It only permits: `Attach`, to users with the role admin, developer or viewer, asked by the runtime itself.
- It applies with the forbids of the last verified policies (`decide(..., forbids_only=...)`), never in their place.
- It goes through the same checks as any other policy.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Final

from akpolicy.engine.compile import CompiledLayer, compile_layer
from akpolicy.engine.source import split_policies

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

DEFAULT_SCOPE: Final = "default"
DEFAULT_POLICY_FILE: Final = "default.cedar"


def load_default_policy_text() -> str:
    """Return the text of the default policy."""
    return resources.files("akpolicy").joinpath("schemas", DEFAULT_POLICY_FILE).read_text(encoding="utf-8")


def load_default_layer(schema: CedarSchema) -> CompiledLayer:
    """Compile the default policy as the layer `default`.

    Raises:
        PolicySetInvalid: the schema lacks what the policy uses.

    """
    return compile_layer(DEFAULT_SCOPE, split_policies(load_default_policy_text(), source=DEFAULT_POLICY_FILE), schema)
