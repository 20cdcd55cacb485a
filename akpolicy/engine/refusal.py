"""A request that does not fit the schema: what is wrong, with the field that is.

Rules:

- Called only after Cedar has refused; Cedar's message is cut down to what it says, without the values that it echoes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

import cedarpy

from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.cedar_request import CedarRequest
    from akpolicy.engine.schema import CedarSchema

_ATTRIBUTE: Final = re.compile(r"attribute `([^`]+)`")
NOISE: Final = re.compile(
    r"^(?:failed to build request: |while parsing context, |error during entity deserialization: "
    r"|entity does not conform to the schema: )+"
)
# Cedar repeats the whole context here, and does not say which value is wrong.
_WRONG_CONTEXT: Final = re.compile(r"^context `.*` is not valid for `(.*)`$", re.DOTALL)


def refuse(request: CedarRequest, schema: CedarSchema, messages: Sequence[str]) -> NoReturn:
    """Raise `RequestInvalid` for a request of which Cedar says `messages`, none if it cannot read the entities."""
    text = messages[0] if messages else _about_entities(request, schema)
    echo = f"failed to parse entities from:\n{request.entities.text}: "
    about_entities = text.startswith(echo)
    reason = NOISE.sub("", text.removeprefix(echo))
    if wrong := _WRONG_CONTEXT.match(reason):
        reason = f"a value of the context has not the type that {wrong[1]} asks for"
    field = _field(reason, request, about_entities=about_entities)
    raise RequestInvalid(f"the request does not fit the schema: {reason}", field=field)


def _about_entities(request: CedarRequest, schema: CedarSchema) -> str:
    """Return what Cedar says of the entities; what parses them does not say which attribute it is."""
    said = cedarpy.is_authorized(request.query, "", request.entities.text, schema.handle).diagnostics.errors
    return said[0] if said else "Cedar gives no reason"


def _field(reason: str, request: CedarRequest, *, about_entities: bool) -> str:
    if reason.startswith("action "):
        return "action"
    if reason.startswith(("principal type", "resource type")):
        return reason.split(" ", 1)[0]
    side = "context"
    if about_entities:
        side = "resource" if f"`{request.resource['type']}::" in reason else "principal"
    found = _ATTRIBUTE.search(reason)
    return f"{side}.{found[1]}" if found else side
