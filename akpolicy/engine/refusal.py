"""A request that does not fit the schema: what is wrong, with the field that is.

Rules:

- Called only after Cedar has refused. What does not fit is found in the schema (`conformance`); where nothing is found,
  Cedar's own words are what there is.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NoReturn

from akpolicy.engine.conformance import find_misfit
from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.cedar_request import CedarRequest
    from akpolicy.engine.schema import CedarSchema

# Cedar repeats what it was given here.
_ECHO: Final = re.compile(r"^(?:failed to parse entities from:.*?|context `.*`)(?=: | is not valid)", re.DOTALL)


def refuse(request: CedarRequest, schema: CedarSchema, messages: Sequence[str]) -> NoReturn:
    """Raise `RequestInvalid` for a request that Cedar refuses with `messages`, none if it cannot read the entities."""
    query = {"principal": request.principal, "action": request.action, "resource": request.resource}
    misfit = find_misfit(schema.model, query, json.loads(request.context), json.loads(request.entities.text))
    if misfit is not None:
        raise RequestInvalid(f"the request does not fit the schema: {misfit.message}", field=misfit.field)
    reason = _ECHO.sub("the request", messages[0]) if messages else "its entities cannot be read"
    raise RequestInvalid(f"the request does not fit the schema: {reason}")
