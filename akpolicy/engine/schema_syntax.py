"""A schema in Cedar's syntax, read into a model.

Rules:

- The source is Cedar's own rendering of a schema that it has accepted (`str(cedarpy.Schema)`): one layout, whatever the
  author wrote, JSON included. Annotations are passed over.
- A name means, in this order: a common type or entity type of its namespace, one of the empty namespace, a built-in
  type (`__cedar::` may stand before those).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from akpolicy.engine.limits import MAX_BRACKET_DEPTH
from akpolicy.engine.schema_model import (
    NO_ATTRIBUTES,
    ActionType,
    Basic,
    EntityOf,
    EntityType,
    RecordOf,
    SchemaModel,
    SetOf,
)
from akpolicy.engine.tokens import Kind, Token, tokenize
from akpolicy.errors import SchemaInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from akpolicy.engine.schema_model import Type

PRIMITIVES: Final = frozenset({"Bool", "Long", "String"})
EXTENSIONS: Final = frozenset({"ipaddr", "decimal", "datetime", "duration"})
_BUILT_IN: Final = {**{name: name for name in PRIMITIVES | EXTENSIONS}, "Boolean": "Bool"}
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\", '"': '"', "'": "'"}


def read_model(text: str) -> SchemaModel:
    """Read a schema as Cedar renders it; raise `SchemaInvalid` for what is not that."""
    reader = _Reader([token for token in tokenize(text) if token.kind is not Kind.COMMENT])
    try:
        reader.declarations("")
        return reader.model()
    except (IndexError, RecursionError) as error:
        raise SchemaInvalid("the schema ends too soon, or defines a type by itself") from error


# --- declarations, before names are resolved --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Name:
    text: str
    namespace: str


@dataclass(frozen=True, slots=True)
class _Set:
    element: _Declared


@dataclass(frozen=True, slots=True)
class _Record:
    attributes: Mapping[str, _Declared]
    required: frozenset[str]


_Declared: TypeAlias = "_Name | _Set | _Record"


@dataclass(frozen=True, slots=True)
class _Action:
    namespace: str
    ids: tuple[str, ...]
    principals: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    context: _Declared = field(default_factory=lambda: _Record({}, frozenset()))


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._common: dict[str, _Declared] = {}
        self._entities: dict[str, tuple[_Declared | None, tuple[str, ...] | None]] = {}
        self._actions: list[_Action] = []

    # --- tokens -------------------------------------------------------------------------------------------------------

    @property
    def _next(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _take(self, expected: str = "") -> str:
        text = self._tokens[self._at].text
        if expected and text != expected:
            line = self._tokens[self._at].line
            raise SchemaInvalid(f"line {line} of the schema has `{text}` where `{expected}` belongs")
        self._at += 1
        return text

    def _took(self, text: str) -> bool:
        if self._next != text:
            return False
        self._at += 1
        return True

    def _path(self) -> str:
        parts = [self._take()]
        while self._took("::"):
            parts.append(self._take())
        return "::".join(parts)

    def _name_or_text(self) -> str:
        text = self._take()
        return _unquoted(text) if text.startswith('"') else text

    def _listed(self, opening: str, closing: str) -> Iterator[None]:
        """Yield before each element between brackets, which are separated by commas."""
        self._take(opening)
        while not self._took(closing):
            yield
            self._took(",")

    def _skip_annotations(self) -> None:
        while self._took("@"):
            self._take()
            if self._took("("):
                self._take()
                self._take(")")

    # --- grammar ------------------------------------------------------------------------------------------------------

    def declarations(self, namespace: str) -> None:
        while self._next not in {"", "}"}:
            self._skip_annotations()
            keyword = self._take()
            if keyword == "namespace":
                inner = self._path()
                self._take("{")
                self.declarations(inner)
                self._take("}")
                continue
            {"type": self._type_declaration, "entity": self._entity, "action": self._action}[keyword](namespace)
            self._take(";")

    def _type_declaration(self, namespace: str) -> None:
        name = self._take()
        self._take("=")
        self._common[_full(name, namespace)] = self._type(namespace)

    def _entity(self, namespace: str) -> None:
        names = [self._take()]
        while self._took(","):
            names.append(self._take())
        shape: _Declared | None = None
        choices: tuple[str, ...] | None = None
        if self._took("enum"):
            choices = tuple(_unquoted(self._take()) for _ in self._listed("[", "]"))
        if self._took("in"):
            self._types_of(namespace)
        if self._took("=") or self._next == "{":
            shape = self._type(namespace)
        if self._took("tags"):
            self._type(namespace)
        for name in names:
            self._entities[_full(name, namespace)] = shape, choices

    def _action(self, namespace: str) -> None:
        ids = [self._name_or_text()]
        while self._took(","):
            ids.append(self._name_or_text())
        if self._took("in"):
            for _ in self._listed("[", "]"):
                self._name_or_text()
                while self._took("::"):
                    self._name_or_text()
        parts: dict[str, object] = {}
        if self._took("appliesTo"):
            for _ in self._listed("{", "}"):
                part = self._take()
                self._take(":")
                parts[part] = self._type(namespace) if part == "context" else self._types_of(namespace)
        self._actions.append(
            _Action(
                namespace,
                tuple(ids),
                parts.get("principal", ()),  # type: ignore[arg-type] # by the name of the part
                parts.get("resource", ()),  # type: ignore[arg-type] # likewise
                parts.get("context", _Record({}, frozenset())),  # type: ignore[arg-type] # likewise
            )
        )

    def _types_of(self, namespace: str) -> tuple[str, ...]:
        if self._next != "[":
            return (self._path_in(namespace),)
        return tuple(self._path_in(namespace) for _ in self._listed("[", "]"))

    def _path_in(self, namespace: str) -> str:
        # Kept with where it stands: an entity type may be declared further down.
        return f"{namespace}|{self._path()}"

    def _type(self, namespace: str, depth: int = 0) -> _Declared:
        if depth > MAX_BRACKET_DEPTH:
            raise SchemaInvalid(f"the schema nests types more than {MAX_BRACKET_DEPTH} deep")
        if self._next == "{":
            attributes: dict[str, _Declared] = {}
            required = set()
            for _ in self._listed("{", "}"):
                self._skip_annotations()
                name = self._name_or_text()
                if not self._took("?"):
                    required.add(name)
                self._take(":")
                attributes[name] = self._type(namespace, depth + 1)
            return _Record(attributes, frozenset(required))
        path = self._path()
        if path == "Set" and self._took("<"):
            element = self._type(namespace, depth + 1)
            self._take(">")
            return _Set(element)
        return _Name(path, namespace)

    # --- resolution ---------------------------------------------------------------------------------------------------

    def model(self) -> SchemaModel:
        entities = {
            name: EntityType(name, self._record(shape) if shape is not None else NO_ATTRIBUTES, choices)
            for name, (shape, choices) in self._entities.items()
        }
        actions = {}
        for action in self._actions:
            uid_type = _full("Action", action.namespace)
            for action_id in action.ids:
                actions[uid_type, action_id] = ActionType(
                    uid_type,
                    action_id,
                    tuple(self._entity_name(name) for name in action.principals),
                    tuple(self._entity_name(name) for name in action.resources),
                    self._record(action.context),
                )
        return SchemaModel(entities, actions)

    def _record(self, declared: _Declared) -> RecordOf:
        found = self._resolved(declared)
        if not isinstance(found, RecordOf):
            raise SchemaInvalid("an entity or a context has a type that is no record")
        return found

    def _resolved(self, declared: _Declared) -> Type:
        if isinstance(declared, _Set):
            return SetOf(self._resolved(declared.element))
        if isinstance(declared, _Record):
            return RecordOf(
                {name: self._resolved(inner) for name, inner in declared.attributes.items()}, declared.required
            )
        for full in (_full(declared.text, declared.namespace), declared.text):
            if full in self._common:
                return self._resolved(self._common[full])
            if full in self._entities:
                return EntityOf(full)
        built_in = _BUILT_IN.get(declared.text.removeprefix("__cedar::"))
        if built_in is None:
            raise SchemaInvalid(f"the schema has a type `{declared.text}` that it does not declare")
        return Basic(built_in)

    def _entity_name(self, name: str) -> str:
        namespace, _, path = name.partition("|")
        full = _full(path, namespace)
        return full if full in self._entities else path


def _full(name: str, namespace: str) -> str:
    return f"{namespace}::{name}" if namespace and "::" not in name else name


def _unquoted(text: str) -> str:
    """Return what a string literal of Cedar's stands for."""
    result, at, inner = [], 0, text[1:-1]
    while at < len(inner):
        if inner[at] != "\\":
            result.append(inner[at])
            at += 1
        elif inner[at + 1] == "u":
            end = inner.index("}", at)
            result.append(chr(int(inner[at + 3 : end], 16)))
            at = end + 1
        else:
            result.append(_ESCAPES.get(inner[at + 1], inner[at + 1]))
            at += 2
    return "".join(result)
