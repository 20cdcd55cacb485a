"""Strict JSON for signed payloads and for state on disk.

Rules (RFC 8259, made stricter so that two readers cannot understand one text differently):

- UTF-8 without lone surrogates; the top level is an object.
- No object names a field twice; integers only, up to 2^53 - 1 either way; no NaN, no Infinity.
- A model says which fields there are: an unknown one and a missing one are errors, and nothing is converted.
- A small text must not become large in memory or deep on the stack: what lies outside strings is bounded before
  parsing, and so is its nesting. So is the number of fields of an object, because each wrong field costs a message.
- What a message quotes of a document is short and printable (`shown`): it goes into logs and over the wire.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from akpolicy.errors import DuplicateField, FieldInvalid, MissingField, PayloadMalformed, PayloadNotUtf8, UnknownField
from akpolicy.limits import KIB, MAX_JSON_INT

# 50,000 policies have 300,000 bytes outside strings.
MAX_STRUCTURE_BYTES: Final = 512 * KIB
MAX_DEPTH: Final = 16
MAX_OBJECT_FIELDS: Final = 4096
MAX_SHOWN_CHARS: Final = 64

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
# Matches an unterminated string too, so that no text makes the search start over (it stays linear).
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_WHITESPACE = b" \t\r\n"
_OPENING = b"[{"
_CLOSING = b"]}"
_MAX_INT_DIGITS = len(str(MAX_JSON_INT))


class JsonLimits(NamedTuple):
    """How much a payload may have outside strings, in bytes, and how many fields an object."""

    structure_bytes: int
    object_fields: int


DOCUMENT_LIMITS: Final = JsonLimits(MAX_STRUCTURE_BYTES, MAX_OBJECT_FIELDS)


class Document(BaseModel):
    """Base of every strict document: immutable, exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    def to_bytes(self) -> bytes:
        """Return the compact UTF-8 JSON of this document; fields at their default are left out."""
        return dump(self.model_dump(by_alias=True, exclude_defaults=True))


D = TypeVar("D", bound=Document)


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON. Readers verify the received bytes, so the order of fields carries no meaning."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def load(data: bytes, model: type[D], limits: JsonLimits = DOCUMENT_LIMITS) -> D:
    """Parse `data` as the document `model`; other `limits` are for what this host wrote itself.

    Raises `PayloadNotUtf8`, `PayloadMalformed`, `DuplicateField`, `UnknownField`, `MissingField` or `FieldInvalid`.
    """
    return validate(load_object(data, limits), model)


def validate(value: dict[str, Any], model: type[D]) -> D:
    """Return a parsed object as `model`; raises `UnknownField`, `MissingField` or `FieldInvalid`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        _raise_typed(error, model)


def validate_entries(
    values: list[object], entries: TypeAdapter[list[D]], model: type[Document], field: str, first: int
) -> list[D]:
    """Return some entries of a list, `field` of `model`, of which the first has the index `first`; raises as above."""
    try:
        return entries.validate_python(values)
    except ValidationError as error:
        _raise_typed(error, model, field, first)


def load_object(data: bytes, limits: JsonLimits = DOCUMENT_LIMITS) -> dict[str, Any]:
    """Parse `data` as one JSON object by the rules of this module, without a model."""
    text = _decode(data)
    check_structure(data, limits)
    try:
        value = decoder(limits).decode(text)
        if has_surrogate_escapes(data):
            refuse_lone_surrogates(value)
    except json.JSONDecodeError as error:
        msg = f"payload is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise PayloadMalformed(msg) from None
    if not isinstance(value, dict):
        msg = "payload is not a JSON object"
        raise PayloadMalformed(msg)
    return value


def decoder(limits: JsonLimits) -> json.JSONDecoder:
    """Return what reads single values by these rules; structure and surrogates are checked apart."""
    return json.JSONDecoder(
        object_pairs_hook=partial(object_of, limits),
        parse_int=_integer,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )


def shown(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """Return `text` as a message may quote it: at most `limit` characters of it, control characters escaped."""
    kept = text[:limit] + ("..." if len(text) > limit else "")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in kept)


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"payload is not UTF-8 at byte {error.start}"
        raise PayloadNotUtf8(msg) from None
    # JSON has no raw NUL anywhere; UTF-16 and UTF-32 text has little else.
    if "\x00" in text:
        msg = "payload has NUL bytes, it is not UTF-8 text"
        raise PayloadNotUtf8(msg)
    return text


def check_structure(data: bytes, limits: JsonLimits) -> None:
    """Refuse deep nesting, and millions of tiny values, which would take some twenty times their size in memory.

    Raises `PayloadMalformed`.
    """
    structure = bytearray()
    # Step by step: one call over megabytes would stop every other thread for as long as it takes.
    end = 0
    for string in _STRING.finditer(data):
        structure += data[end : string.start()]
        end = string.end()
    structure += data[end:]
    structure = structure.translate(None, _WHITESPACE)
    if len(structure) > limits.structure_bytes:
        msg = f"payload has {len(structure)} bytes outside strings, more than {limits.structure_bytes}"
        raise PayloadMalformed(msg)
    depth = 0
    for byte in structure:
        if byte in _OPENING:
            depth += 1
        elif byte in _CLOSING:
            depth -= 1
        if depth > MAX_DEPTH:
            msg = f"payload is nested more than {MAX_DEPTH} deep"
            raise PayloadMalformed(msg)


def object_of(limits: JsonLimits, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these fields; raise `FieldInvalid` if they are too many, or `DuplicateField`."""
    if len(pairs) > limits.object_fields:
        msg = f"payload has an object with {len(pairs)} fields, more than {limits.object_fields}"
        raise FieldInvalid(msg)
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                msg = f"payload names the field `{shown(name)}` twice"
                raise DuplicateField(msg)
            seen.add(name)
    return result


def _integer(text: str) -> int:
    # The length first: int() of a huge literal is quadratic.
    if len(text) > _MAX_INT_DIGITS + 1 or abs(int(text)) > MAX_JSON_INT:
        msg = f"payload has an integer beyond {MAX_JSON_INT}"
        raise FieldInvalid(msg)
    return int(text)


def _refuse_number(text: str) -> NoReturn:
    msg = f"payload has the number `{shown(text)}`; only integers are allowed"
    raise FieldInvalid(msg)


def has_surrogate_escapes(data: bytes) -> bool:
    """Whether a text has escapes that could make lone surrogates."""
    return _SURROGATE_ESCAPE.search(data) is not None


def refuse_lone_surrogates(value: object) -> None:
    """Raise `PayloadNotUtf8` if there is a lone surrogate anywhere in what was parsed."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        msg = "payload has a lone surrogate"
        raise PayloadNotUtf8(msg) from None


def _raise_typed(error: ValidationError, model: type[Document], within: str = "", offset: int = 0) -> NoReturn:
    """Turn the first mistake that the model found into a typed error; it may be in a part of the list `within`."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = first["loc"]
    if within:
        place = (within, int(place[0]) + offset, *place[1:])
    field = shown(".".join(str(part) for part in place)) or "(document)"
    name = model.__name__.lower()
    if first["type"] == "extra_forbidden":
        msg = f"{name} has the unknown field `{field}`"
        raise UnknownField(msg) from None
    if first["type"] == "missing":
        msg = f"{name} lacks the field `{field}`"
        raise MissingField(msg) from None
    msg = f"{name} field `{field}` is invalid: {_lower_first(first['msg'])}"
    raise FieldInvalid(msg) from None


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
