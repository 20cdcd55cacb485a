"""A context with its types written out, so that it means the same without the schema.

Rules:

- A schema lets `"10.0.0.1"` be an `ipaddr` and `{"type": ..., "id": ...}` an entity. Here they become `__extn` and
  `__entity`, as Cedar reads them where the schema says so.
- What the schema does not speak of, or what does not fit it, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from akpolicy.engine.schema_model import CONSTRUCTORS, Basic, EntityOf, RecordOf, SetOf

if TYPE_CHECKING:
    from akpolicy.engine.schema_model import Type

_CONSTRUCTOR_OF: Final = {name: function for function, name in CONSTRUCTORS.items()}


def spelled_out(value: Any, expected: Type) -> Any:  # noqa: ANN401 - values of JSON
    """Return `value`, of Cedar's JSON form, with what `expected` says of it written out."""
    match expected:
        case RecordOf(attributes) if isinstance(value, Mapping):
            return {
                name: spelled_out(inner, attributes[name]) if name in attributes else inner
                for name, inner in value.items()
            }
        case SetOf(element) if isinstance(value, list):
            return [spelled_out(inner, element) for inner in value]
        case EntityOf() if isinstance(value, Mapping) and set(value) == {"type", "id"}:
            return {"__entity": value}
        case Basic(name) if isinstance(value, str) and name in _CONSTRUCTOR_OF:
            return {"__extn": {"fn": _CONSTRUCTOR_OF[name], "arg": value}}
        case Basic(name) if isinstance(value, Mapping) and set(value) == {"fn", "arg"} and name in _CONSTRUCTOR_OF:
            return {"__extn": value}
    return value
