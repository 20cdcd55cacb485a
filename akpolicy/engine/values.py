"""Attribute values of a request, and their Cedar JSON form.

Rules:

- Six kinds, as in Cedar: Bool, Long (64-bit), String, entity, set, record; and the values of four extensions.
- Numbers never pass through a float, and a null is no value: both are refused.
- Names that Cedar's JSON form reserves (`__entity`, `__extn`, `__expr`) are no record fields: a caller could turn data
  into an entity with them.
- Depth, sizes and counts are limited; text is valid Unicode (no lone surrogates).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from akpolicy.engine.limits import (
    MAX_ATTRIBUTES,
    MAX_LONG,
    MAX_SET_ELEMENTS,
    MAX_STRING_CHARS,
    MAX_VALUE_DEPTH,
    MIN_LONG,
)
from akpolicy.errors import RequestInvalid

EXTENSION_FUNCTIONS: Final = frozenset({"ip", "decimal", "datetime", "duration"})
RESERVED_NAMES: Final = frozenset({"__entity", "__extn", "__expr"})


@dataclass(frozen=True, slots=True)
class EntityRef:
    """A reference to an entity: full type name, for example `AgentKernel::Team`, and unescaped id."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class ExtensionCall:
    """A value of a Cedar extension: `ip`, `decimal`, `datetime` or `duration` of a text."""

    function: str
    argument: str


_CedarSet: TypeAlias = "tuple[CedarValue, ...] | list[CedarValue]"
CedarValue: TypeAlias = "bool | int | str | EntityRef | ExtensionCall | _CedarSet | Mapping[str, CedarValue]"


def invalid(message: str, field: str) -> NoReturn:
    """Refuse a request because of `field`."""
    raise RequestInvalid(f"`{field}`: {message}", field=field)


def check_text(text: str, field: str, limit: int = MAX_STRING_CHARS) -> str:
    """Return `text` if it is not too long (in characters) and can be UTF-8."""
    if len(text) > limit:
        invalid(f"has {len(text)} characters; the limit is {limit}", field)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            invalid("has a lone surrogate and is no valid Unicode text", field)
    return text


def record_to_json(record: Mapping[str, CedarValue], field: str, depth: int = 0) -> dict[str, object]:
    """Return the Cedar JSON form of named values; `field` says in messages where they are.

    Raises:
        RequestInvalid: a name or value breaks a rule of this module.

    """
    if len(record) > MAX_ATTRIBUTES:
        invalid(f"has {len(record)} attributes; the limit is {MAX_ATTRIBUTES}", field)
    if not RESERVED_NAMES.isdisjoint(record):
        invalid("`__entity`, `__extn` and `__expr` are reserved and cannot be attribute names", field)
    document = {}
    for name, value in record.items():
        where = f"{field}.{name}"
        check_text(name, where)
        document[name] = to_json(value, where, depth + 1)
    return document


def to_json(value: CedarValue, field: str, depth: int = 0) -> object:
    """Return the Cedar JSON form of one value.

    Raises:
        RequestInvalid: the value breaks a rule of this module.

    """
    if isinstance(value, str):
        return check_text(value, field)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _check_long(value, field)
    return _compound_to_json(value, field, depth)


def _compound_to_json(
    value: EntityRef | ExtensionCall | _CedarSet | Mapping[str, CedarValue], field: str, depth: int
) -> object:
    if depth > MAX_VALUE_DEPTH:
        invalid(f"is nested more than {MAX_VALUE_DEPTH} deep", field)
    if isinstance(value, (tuple, list)):
        if len(value) > MAX_SET_ELEMENTS:
            invalid(f"has {len(value)} elements; the limit is {MAX_SET_ELEMENTS}", field)
        return [to_json(element, field, depth + 1) for element in value]
    if isinstance(value, EntityRef):
        return {"__entity": {"type": check_text(value.type, field), "id": check_text(value.id, field)}}
    if isinstance(value, ExtensionCall):
        if value.function not in EXTENSION_FUNCTIONS:
            invalid(f"`{value.function}` is no extension; use `ip`, `decimal`, `datetime` or `duration`", field)
        return {"__extn": {"fn": value.function, "arg": check_text(value.argument, field)}}
    return record_to_json(value, field, depth)


def _check_long(value: int, field: str) -> int:
    return value if MIN_LONG <= value <= MAX_LONG else invalid("is no 64-bit integer", field)


def value_from_json(value: object, field: str, depth: int = 0) -> CedarValue:
    """Return the value that a parsed JSON document states, Cedar's `__entity` and `__extn` escapes included.

    Raises:
        RequestInvalid: null, a fraction, an integer beyond 64 bits, a broken escape, or nested too deep.

    """
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return _check_long(value, field)
    if depth > MAX_VALUE_DEPTH:
        invalid(f"is nested more than {MAX_VALUE_DEPTH} deep", field)
    if isinstance(value, list):
        return tuple(value_from_json(element, field, depth + 1) for element in value)
    if isinstance(value, Mapping):
        if not RESERVED_NAMES.isdisjoint(value):
            return _escape(value, field)
        return {name: value_from_json(inner, f"{field}.{name}", depth + 1) for name, inner in value.items()}
    if value is None:
        invalid("is null; leave it out instead", field)
    if isinstance(value, float):
        invalid("is no integer; write a fraction as `decimal`", field)
    return invalid("is no JSON value", field)


def _escape(value: Mapping[str, object], field: str) -> EntityRef | ExtensionCall:
    for name, keys, kind in (("__entity", ("type", "id"), EntityRef), ("__extn", ("fn", "arg"), ExtensionCall)):
        inner = value.get(name)
        if len(value) == 1 and isinstance(inner, Mapping) and set(inner) == set(keys):
            first, second = (inner[key] for key in keys)
            if isinstance(first, str) and isinstance(second, str):
                return kind(first, second)
    return invalid(
        'must be `{"__entity": {"type": ..., "id": ...}}` or `{"__extn": {"fn": ..., "arg": ...}}` with texts', field
    )
