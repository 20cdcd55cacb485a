"""Where a request does not fit its schema: the value, what it must be, and what it is.

Rules:

- Asked only after Cedar has refused, because Cedar says that something does not fit, and often not what. The schema
  (`schema_model`) is walked beside the request; the first misfit is told.
- Values are in Cedar's JSON form, with the explicit escapes `__entity` and `__extn` or as the schema lets them be
  written.
- No value is repeated but what names something: an action, a type, an enumeration's id, the text of an extension value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cedarpy

from akpolicy.engine.schema_model import CONSTRUCTORS, Basic, EntityOf, RecordOf, SchemaModel, SetOf, Type

_EXAMPLES: Final = {"ipaddr": "10.0.0.0/8", "decimal": "1.25", "datetime": "2026-01-31T12:00:00Z", "duration": "1h30m"}
_SHOWN_CHARS: Final = 80
_SHOWN_NAMES: Final = 20


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first thing that does not fit: `field` is its place, for example `context.command`."""

    field: str
    message: str


def find_misfit(
    model: SchemaModel,
    query: Mapping[str, Mapping[str, str]],
    context: object,
    entities: Sequence[Mapping[str, object]],
) -> Misfit | None:
    """Return the first misfit of a request with its entities; None if none is found.

    `query` has the uids of `principal`, `action` and `resource`.
    """
    return next(_misfits(model, query, context, entities), None)


def find_entity_misfit(
    model: SchemaModel, query: Mapping[str, Mapping[str, str]], entities: Sequence[Mapping[str, object]]
) -> Misfit | None:
    """Return the first misfit of entities alone; None if none is found."""
    return next(_entity_misfits(model, query, entities), None)


def _misfits(
    model: SchemaModel,
    query: Mapping[str, Mapping[str, str]],
    context: object,
    entities: Sequence[Mapping[str, object]],
) -> Iterator[Misfit]:
    action_uid = query["action"]["type"], query["action"]["id"]
    action = model.actions.get(action_uid)
    if action is None:
        known = [name for kind, name in model.actions if kind == action_uid[0]]
        yield Misfit("action", f"action `{_cut(action_uid[1])}` is unknown{_close(action_uid[1], known)}")
        return
    for part, types in (("principal", action.principals), ("resource", action.resources)):
        kind = query[part]["type"]
        if kind not in model.entities:
            yield Misfit(part, f"`{part}` has the unknown type `{_cut(kind)}`{_close(kind, model.entities)}")
        elif kind not in types:
            allowed = ", ".join(f"`{name}`" for name in types) or "nothing"
            yield Misfit(part, f"`{part}` is a `{kind}`; action `{action.id}` applies to {allowed}")
    where = f"the context of action `{action.id}`"
    yield from _record(model, context, action.context, "context", where)
    yield from _entity_misfits(model, query, entities)


def _entity_misfits(
    model: SchemaModel, query: Mapping[str, Mapping[str, str]], entities: Sequence[Mapping[str, object]]
) -> Iterator[Misfit]:
    for entity in entities:
        uid = entity["uid"]
        if not isinstance(uid, Mapping):
            continue
        part = next((part for part in ("principal", "resource") if query[part] == uid), "entities")
        kind = model.entities.get(str(uid["type"]))
        if kind is None:
            yield Misfit(part, f"`{part}` has the unknown type `{_cut(str(uid['type']))}`")
            continue
        if kind.choices is not None and uid["id"] not in kind.choices:
            yield Misfit(part, f"`{_cut(str(uid['id']))}` is no `{kind.name}`; it may be {_names(kind.choices)}")
        yield from _record(model, entity.get("attrs"), kind.attributes, part, f"`{kind.name}`")


def _record(model: SchemaModel, value: object, expected: RecordOf, path: str, where: str) -> Iterator[Misfit]:
    if not isinstance(value, Mapping):
        yield Misfit(path, f"`{path}` must be a record, but is {_kind(value)}")
        return
    for name in value:
        if name not in expected.attributes:
            has = f"{where} has {_names(sorted(expected.attributes))}" if expected.attributes else f"{where} has none"
            close = _close(name, expected.attributes)
            yield Misfit(f"{path}.{name}", f"`{path}.{_cut(name)}` is unknown{close or f'; {has}'}")
    for name in sorted(expected.required - value.keys()):
        kind = _expected(expected.attributes[name])
        yield Misfit(f"{path}.{name}", f"`{path}.{name}` is missing: {where} requires {kind}")
    for name, inner in value.items():
        if name in expected.attributes:
            yield from _value(model, inner, expected.attributes[name], f"{path}.{name}")


def _value(model: SchemaModel, value: object, expected: Type, path: str) -> Iterator[Misfit]:
    if isinstance(expected, SetOf):
        if not isinstance(value, list):
            yield _wrong(value, expected, path)
            return
        for element in value:
            yield from _value(model, element, expected.element, path)
    elif isinstance(expected, RecordOf):
        yield from _record(model, value, expected, path, f"`{path}`")
    elif isinstance(expected, EntityOf):
        yield from _entity(model, value, expected, path)
    else:
        yield from _basic(value, expected, path)


def _entity(model: SchemaModel, value: object, expected: EntityOf, path: str) -> Iterator[Misfit]:
    uid = _escape(value, "__entity", ("type", "id"))
    if uid is None or uid["type"] != expected.name:
        yield _wrong(value, expected, path)
        return
    choices = model.entities[expected.name].choices
    if choices is not None and uid["id"] not in choices:
        message = f"`{path}` is `{_cut(str(uid['id']))}`, which is no `{expected.name}`; it may be {_names(choices)}"
        yield Misfit(path, message)


def _basic(value: object, expected: Basic, path: str) -> Iterator[Misfit]:
    if expected.name in _EXAMPLES:
        yield from _extension(value, expected, path)
        return
    kinds = {"Bool": bool, "Long": int, "String": str}
    fits = isinstance(value, kinds[expected.name]) and (expected.name == "Bool" or not isinstance(value, bool))
    if not fits:
        yield _wrong(value, expected, path)


def _extension(value: object, expected: Basic, path: str) -> Iterator[Misfit]:
    call = _escape(value, "__extn", ("fn", "arg"))
    if call is None and isinstance(value, str):
        call = {"fn": next(fn for fn, name in CONSTRUCTORS.items() if name == expected.name), "arg": value}
    if call is None or CONSTRUCTORS.get(str(call["fn"])) != expected.name:
        yield _wrong(value, expected, path)
    elif not _is_accepted(call):
        example = _EXAMPLES[expected.name]
        text = _cut(str(call["arg"]))
        yield Misfit(path, f"`{path}` is `{text}`, which is no {expected.name}; write it as `{example}`")


def _is_accepted(call: Mapping[str, object]) -> bool:
    """Ask Cedar whether it can make the extension value."""
    uid = {"type": "A", "id": ""}
    query = {"principal": uid, "action": uid, "resource": uid, "context": {"x": {"__extn": dict(call)}}}
    return cedarpy.is_authorized(query, "", "[]").decision is not cedarpy.Decision.NoDecision


def _escape(value: object, name: str, keys: tuple[str, str]) -> Mapping[str, object] | None:
    """Return an escape's content (two texts), written with or without its name; None if the value is none."""
    if not isinstance(value, Mapping):
        return None
    inner = value.get(name, value)
    fits = isinstance(inner, Mapping) and set(inner) == set(keys)
    return inner if fits and all(isinstance(text, str) for text in inner.values()) else None


# --- words ------------------------------------------------------------------------------------------------------------


def _wrong(value: object, expected: Type, path: str) -> Misfit:
    return Misfit(path, f"`{path}` must be {_expected(expected)}, but is {_kind(value)}")


def _expected(expected: Type) -> str:
    if isinstance(expected, SetOf):
        return f"a Set of {_plural(expected.element)}"
    if isinstance(expected, RecordOf):
        return "a record"
    if isinstance(expected, EntityOf):
        return f"an entity of type `{expected.name}`"
    return f"an {expected.name}" if expected.name == "ipaddr" else f"a {expected.name}"


def _plural(expected: Type) -> str:
    if isinstance(expected, EntityOf):
        return f"entities of type `{expected.name}`"
    return _expected(expected).split(" ", 1)[1]


def _kind(value: object) -> str:
    """Return what a value in Cedar's JSON form is."""
    # In this order: a Bool is an int too.
    for kind, name in ((bool, "a Bool"), (int, "a Long"), (str, "a String"), (list, "a Set")):
        if isinstance(value, kind):
            return name
    if (uid := _escape(value, "__entity", ("type", "id"))) is not None:
        return f"an entity of type `{_cut(str(uid['type']))}`"
    if (call := _escape(value, "__extn", ("fn", "arg"))) is not None:
        return f"a value of `{_cut(str(call['fn']))}`"
    return "a record" if isinstance(value, Mapping) else "missing"


def _close(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name[:_SHOWN_CHARS], sorted(known), n=1, cutoff=0.75)
    return f"; did you mean `{found[0]}`?" if found else ""


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN_NAMES])
    return f"{shown} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
