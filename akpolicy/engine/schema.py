"""Cedar schemas: the one in the package and how any other is judged.

Rules:

- A schema is limited in size and in nesting (`<>` counts too) before Cedar parses it.
- It is parsed once and kept; parsing one costs more than a decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.hierarchy import Ancestors, ancestors_of
from akpolicy.engine.index import action_keys, uid_key
from akpolicy.engine.limits import MAX_BRACKET_DEPTH
from akpolicy.engine.schema_syntax import read_model
from akpolicy.engine.source import len_utf8
from akpolicy.engine.tokens import nesting
from akpolicy.errors import SchemaInvalid
from akpolicy.limits import MAX_SCHEMA_BYTES

if TYPE_CHECKING:
    from akpolicy.engine.schema_model import SchemaModel

NAMESPACE: Final = "AgentKernel"
# Actions of which the keys are kept; a request can name any.
MAX_KNOWN_ACTIONS: Final = 1024
DEFAULT_SCHEMA_FILE: Final = "agentkernel.cedarschema"


@dataclass(frozen=True, slots=True)
class CedarSchema:
    """A schema that Cedar has accepted: its text and the parsed form."""

    text: str = field(repr=False)
    handle: cedarpy.Schema = field(repr=False, compare=False)
    action_ancestors: Ancestors = field(init=False, repr=False, compare=False)
    _action_keys: dict[tuple[str, str], tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    _model: list[SchemaModel] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the groups of the actions: Cedar adds the schema's actions to any entities."""
        actions = cedarpy.Entities.from_json_str("[]", self.handle)
        object.__setattr__(self, "action_ancestors", ancestors_of(actions))

    @property
    def model(self) -> SchemaModel:
        """What the schema says, read when it is asked for first."""
        if not self._model:
            self._model.append(read_model(str(self.handle)))
        return self._model[0]

    def action_uid(self, action: str) -> tuple[str, str]:
        """Return the type and the id of one of agentkernel's actions."""
        return f"{NAMESPACE}::Action", action

    def action_keys(self, type: str, id: str) -> tuple[str, ...]:  # noqa: A002 - the names of Cedar's JSON form
        """Return the keys under which policies for an action are filed; its groups are those of the schema."""
        keys = self._action_keys.get((type, id))
        if keys is None:
            keys = action_keys(type, id, self.action_ancestors.get(uid_key(type, id), ()))
            if len(self._action_keys) < MAX_KNOWN_ACTIONS:
                self._action_keys[type, id] = keys
        return keys


def load_default_schema_text() -> str:
    """Return the text of the schema that ships with the package."""
    return resources.files("akpolicy").joinpath("schemas", DEFAULT_SCHEMA_FILE).read_text(encoding="utf-8")


def load_default_schema() -> CedarSchema:
    """Return the parsed schema that ships with the package."""
    return parse_schema(load_default_schema_text())


def parse_schema(text: str) -> CedarSchema:
    """Parse a schema in Cedar's schema syntax.

    Raises:
        SchemaInvalid: too large, nested too deep, or not a schema.

    """
    size = len_utf8(text)
    if not 0 <= size <= MAX_SCHEMA_BYTES:
        raise SchemaInvalid(
            "the schema is not UTF-8" if size < 0 else f"the schema has {size} bytes; the limit is {MAX_SCHEMA_BYTES}"
        )
    depth = nesting(text)
    if depth > MAX_BRACKET_DEPTH:
        raise SchemaInvalid(f"the schema nests brackets {depth} deep; the limit is {MAX_BRACKET_DEPTH}")
    try:
        return CedarSchema(text, cedarpy.Schema.from_str(text, release_gil=True))
    except ValueError as error:
        raise SchemaInvalid(f"Cedar refuses the schema: {error}") from error
