"""Strict JSON for signed payloads and for state on disk.

Rules (RFC 8259, made stricter so that two readers cannot understand one text differently):

- UTF-8 without lone surrogates; the top level is an object.
- No object names a field twice; integers only, up to 2^53 - 1 either way; no NaN, no Infinity.
- A model says which fields there are: an unknown one and a missing one are errors, and nothing is converted.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from akpolicy.errors import DuplicateField, FieldInvalid, MissingField, PayloadMalformed, PayloadNotUtf8, UnknownField
from akpolicy.limits import MAX_JSON_INT

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_INT_DIGITS = len(str(MAX_JSON_INT))


class Document(BaseModel):
    """Base of every strict document: immutable, exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    def to_bytes(self) -> bytes:
        """Return the compact UTF-8 JSON of this document; fields at their default are left out."""
        return dump(self.model_dump(mode="python", by_alias=True, exclude_defaults=True))


D = TypeVar("D", bound=Document)


def dump(value: object) -> bytes:
    """Return compact UTF-8 JSON. Readers verify the received bytes, so the order of fields carries no meaning."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def load(data: bytes, model: type[D]) -> D:
    """Parse `data` as the document `model`.

    Raises `PayloadNotUtf8`, `PayloadMalformed`, `DuplicateField`, `UnknownField`, `MissingField` or `FieldInvalid`.
    """
    value = load_object(data)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        _raise_typed(error, model)


def load_object(data: bytes) -> dict[str, Any]:
    """Parse `data` as one JSON object by the rules of this module, without a model."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"payload is not UTF-8 at byte {error.start}"
        raise PayloadNotUtf8(msg) from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except json.JSONDecodeError as error:
        msg = f"payload is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise PayloadMalformed(msg) from None
    except RecursionError:
        msg = "payload is nested too deeply"
        raise PayloadMalformed(msg) from None
    if not isinstance(value, dict):
        msg = "payload is not a JSON object"
        raise PayloadMalformed(msg)
    if _SURROGATE_ESCAPE.search(data):
        _refuse_lone_surrogates(text=json.dumps(value, ensure_ascii=False))
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                msg = f"payload names the field `{name}` twice"
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
    msg = f"payload has the number `{text[:32]}`; only integers are allowed"
    raise FieldInvalid(msg)


def _refuse_lone_surrogates(*, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        msg = "payload has a lone surrogate"
        raise PayloadNotUtf8(msg) from None


def _raise_typed(error: ValidationError, model: type[Document]) -> NoReturn:
    """Turn the first mistake that the model found into a typed error."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "(document)"
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
