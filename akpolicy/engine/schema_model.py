"""What a schema says: entity types with their attributes, actions with what they apply to and their context.

Rules:

- It is read from Cedar's own rendering of a schema (`schema_syntax`). Common types are resolved where they are used.
- This is for messages alone. What fits a schema is Cedar's to judge, and nothing is allowed because of this reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

# The functions that make values of the extensions, and the types of what they make.
CONSTRUCTORS: Final = {"ip": "ipaddr", "decimal": "decimal", "datetime": "datetime", "duration": "duration"}


@dataclass(frozen=True, slots=True)
class Basic:
    """`Bool`, `Long`, `String` or the type of an extension."""

    name: str


@dataclass(frozen=True, slots=True)
class EntityOf:
    """An entity of a type, by its full name."""

    name: str


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set of values of one type."""

    element: Type


@dataclass(frozen=True, slots=True)
class RecordOf:
    """A record: the type of each attribute, and which are required."""

    attributes: Mapping[str, Type]
    required: frozenset[str]


Type: TypeAlias = "Basic | EntityOf | SetOf | RecordOf"
NO_ATTRIBUTES: Final = RecordOf({}, frozenset())


@dataclass(frozen=True, slots=True)
class EntityType:
    """An entity type; `choices` are the ids of an enumeration, None if any id will do."""

    name: str
    attributes: RecordOf = NO_ATTRIBUTES
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ActionType:
    """An action: the entity types that it applies to, by full name, and its context."""

    type: str
    id: str
    principals: tuple[str, ...]
    resources: tuple[str, ...]
    context: RecordOf


@dataclass(frozen=True, slots=True)
class SchemaModel:
    """All that a schema declares, by full name; actions by type and id."""

    entities: Mapping[str, EntityType]
    actions: Mapping[tuple[str, str], ActionType]
