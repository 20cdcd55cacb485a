"""Policies, schemas and requests that were not written for akpolicy, read for an evaluation.

Rules:

- A policy is called by its `@id` where no other has it, else `policy<N>` by its place in the text, as Cedar does. In
  Cedar's JSON form policies have their names.
- Templates are refused. So is text that nests deeper than Cedar survives; all else is Cedar's to judge.
- An object of JSON names a field once: which of two would count is nobody's to guess.
- Measured with cedarpy 4.12.2: between 500 and 1,000 nested brackets, or 4,000 and 10,000 nested `if`, end the process
  with SIGSEGV; 40,000 operators in a row do not, nor do as many `when`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import cedarpy
from cedarpy import pst

from akpolicy.engine.source import PolicyText
from akpolicy.engine.tokens import Kind, count_conditionals, count_operators, head, nesting, pieces, tokenize
from akpolicy.errors import PolicyParseError, PolicyTemplate, PolicyTooDeep, RequestInvalid, SchemaInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.tokens import Piece

MAX_DEPTH: Final = 200
MAX_CONDITIONALS: Final = 1000
MAX_EVALUATED_OPERATORS: Final = 20_000
_MAX_UID_TOKENS: Final = 64
_SHOWN_CHARS: Final = 80


def read_policies(text: str) -> list[PolicyText]:
    """Read policies in Cedar's syntax or its JSON form, each with its name as id.

    Raises:
        PolicyError: what is wrong with them.

    """
    return _from_json(text) if text.lstrip()[:1] == "{" else _from_text(text)


def read_schema(text: str) -> cedarpy.Schema:
    """Read a schema in Cedar's syntax or its JSON form; raise `SchemaInvalid`."""
    if (depth := nesting(text)) > MAX_DEPTH:
        raise SchemaInvalid(f"the schema nests brackets {depth} deep; the limit is {MAX_DEPTH}")
    try:
        return cedarpy.Schema.from_json_str(text) if text.lstrip()[:1] == "{" else cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise SchemaInvalid(f"Cedar refuses the schema: {error}") from error


def read_request(text: bytes) -> dict[str, Any]:
    """Read a JSON object; raise `RequestInvalid`."""
    try:
        request = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"the line is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise RequestInvalid("the line is not a JSON object")
    return request


def read_uid(value: object, part: str) -> dict[str, str]:
    """Read a uid: `{"type": ..., "id": ...}`, the same below `__entity`, or Cedar's syntax; raise `RequestInvalid`."""
    if isinstance(value, str):
        return _uid_from_text(value, part)
    if isinstance(value, dict):
        inner = value.get("__entity", value)
        if isinstance(inner, dict) and isinstance(inner.get("type"), str) and isinstance(inner.get("id"), str):
            return {"type": inner["type"], "id": inner["id"]}
    msg = f'`{part}` must be `{{"type": ..., "id": ...}}` or a text such as `User::"alice"`'
    raise RequestInvalid(msg, field=part)


def read_context(value: object) -> str:
    """Return a context, an object or nothing, as JSON text; raise `RequestInvalid`."""
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise RequestInvalid("`context` must be an object", field="context")
    try:
        return json.dumps(value)
    except RecursionError as error:
        raise RequestInvalid("`context` nests too deep", field="context") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        msg = f"the field `{name[:_SHOWN_CHARS]}` is there twice"
        raise ValueError(msg)
    return found


def _uid_from_text(text: str, part: str) -> dict[str, str]:
    """Let Cedar read what has the form of a uid; anything else is no text to put into a policy."""
    try:
        policy = f"permit (principal == {text}, action, resource);" if _is_uid(text) else ""
        found = list(cedarpy.policies_to_pst(policy).static_policies.values())
    except ValueError:
        found = []
    match found:
        case [pst.Template(principal=pst.ScopeEq(pst.EntityUid() as uid))]:
            return {"type": str(uid.type), "id": uid.id}
    msg = f'`{part}` is `{text[:_SHOWN_CHARS]}`, which is no entity; write it as `User::"alice"`'
    raise RequestInvalid(msg, field=part)


def _is_uid(text: str) -> bool:
    kinds = []
    for token in tokenize(text):
        kinds.append(token.kind)
        if len(kinds) > _MAX_UID_TOKENS or (token.kind is Kind.SYMBOL and token.text != "::"):
            return False
    return kinds[-1:] == [Kind.STRING] and set(kinds[:-1]) == {Kind.WORD, Kind.SYMBOL}


# --- policies ---------------------------------------------------------------------------------------------------------


def _from_text(text: str) -> list[PolicyText]:
    found = [piece for piece in pieces(text, measured=len(text)) if not piece.is_comment]
    for piece in found:
        _check(text[piece.start : piece.end], piece)
    _parse(text, len(found))
    given = [_given_name(text, piece) for piece in found]
    return [
        PolicyText(name, text[piece.start : piece.end], line=piece.line)
        for name, piece in zip(_names(given), found, strict=True)
    ]


def _check(text: str, piece: Piece) -> None:
    """Refuse what Cedar must not be given, and templates."""
    if piece.slot >= 0:
        msg = "is a template (`?principal` or `?resource`); these are not supported: write the policy out"
        raise PolicyTemplate(msg, line=piece.line)
    measures = (
        ("nested brackets", piece.depth, MAX_DEPTH),
        ("`if`", count_conditionals(text, limit=MAX_CONDITIONALS), MAX_CONDITIONALS),
        ("operators", count_operators(text, limit=MAX_EVALUATED_OPERATORS), MAX_EVALUATED_OPERATORS),
    )
    for what, found, limit in measures:
        if found > limit:
            msg = f"has {found} {what}; beyond {limit} Cedar cannot be trusted with it: split the policy"
            raise PolicyTooDeep(msg, line=piece.line)


def _given_name(text: str, piece: Piece) -> str:
    name = head(text, piece.first).id or ""
    if "\\" not in name:
        return name
    try:
        parsed = cedarpy.policies_to_pst(f'@id("{name}") permit (principal, action, resource);')
    except ValueError:
        return ""
    return next((dict(one.annotations or {}).get("id", "") for one in parsed.static_policies.values()), "")


def _names(given: Sequence[str]) -> list[str]:
    """Return the name of each policy: its own if no other could be meant by it."""
    positional = {f"policy{number}" for number in range(len(given))}
    times = Counter(given)
    return [
        name if name and times[name] == 1 and name not in positional else f"policy{number}"
        for number, name in enumerate(given)
    ]


def _from_json(text: str) -> list[PolicyText]:
    try:
        document = json.loads(text, object_pairs_hook=_object)
        if document.get("templates") or document.get("templateLinks"):
            msg = "the policies have templates; these are not supported: write the policies out"
            raise PolicyTemplate(msg)
        static = document.get("staticPolicies", {})
        return [PolicyText(name, _text_of(name, policy)) for name, policy in static.items()]
    except (ValueError, AttributeError, RecursionError) as error:
        raise PolicyParseError(f"the policies are not in Cedar's JSON form: {error}") from error


def _text_of(name: str, policy: object) -> str:
    return cedarpy.policies_from_json_str(
        json.dumps({"staticPolicies": {name: policy}, "templates": {}, "templateLinks": []})
    )


def _parse(text: str, expected: int) -> None:
    try:
        count = len(cedarpy.PolicySet.from_str(text))
    except ValueError as error:
        raise PolicyParseError(f"Cedar refuses the policies: {error}") from error
    if count != expected:
        raise PolicyParseError(f"Cedar reads {count} policies, where {expected} end with `;`")
