"""What stands before a policy's conditions: effect, scope and annotations, as Cedar reads them.

Rules:

- Only the head is read: the text up to the `)` that closes the scope. Cedar's tree of a whole policy is slow to get,
  and is refused beyond 100 levels of conditions, which a policy may have.
- Cedar parses the heads (`cedarpy.pst`); nothing here interprets a scope. A head that Cedar does not read as one static
  policy is refused: an index built from a guess could skip a `forbid`.
- The interpreter is held while Cedar's tree becomes Python objects (about 45 us a head), so heads are read in small
  batches, and `pause` is called after each: a decision on another thread does not wait for long. Equal heads are read
  once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import cedarpy

from akpolicy.engine.index import scope_keys
from akpolicy.engine.tokens import BLANK, COMMENT, STRING, first_token
from akpolicy.engine.verdict import Effect
from akpolicy.errors import PolicySetInvalid, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cedarpy import pst

    from akpolicy.engine.index import ScopeKeys
    from akpolicy.engine.source import PolicyText

BATCH: Final = 4
NO_ANNOTATIONS: Final[Mapping[str, str]] = {}

_WORD: Final = r"[A-Za-z_][A-Za-z0-9_]*+"
_ANNOTATION: Final = rf"@{BLANK}{_WORD}{BLANK}(?:\({BLANK}{STRING}{BLANK}\){BLANK})?"
_NAMED: Final = re.compile(_ANNOTATION.replace(_WORD, f"(?P<name>{_WORD})", 1))
_SCOPE: Final = rf'{_WORD}{BLANK}\((?:[^()"/]|{COMMENT}|{STRING}|/)*+\)'
_HEAD: Final = re.compile(rf"(?P<annotations>(?:{_ANNOTATION})*+)(?P<scope>{_SCOPE})")


@dataclass(frozen=True, slots=True)
class PolicyHead:
    """A policy without its conditions: what it is filed under, and its annotations but `@id`."""

    effect: Effect
    keys: ScopeKeys
    annotations: Mapping[str, str]


def no_pause() -> None:
    """Go on at once."""


def read_heads(policies: Sequence[PolicyText], pause: Callable[[], None] = no_pause) -> list[PolicyHead]:
    """Return the head of each policy. Each must have passed `check_policies`.

    Raises:
        PolicySetInvalid: PolicyParseError for a head that Cedar does not read.

    """
    texts = [_head_text(policy) for policy in policies]
    # Step by step, as everything here: one call over ten thousands would stop every other thread meanwhile.
    wanted: dict[str, None] = {}
    for text in texts:
        wanted[text] = None
    read: dict[str, PolicyHead] = {}
    unread = iter(wanted)
    while batch := list(islice(unread, BATCH)):
        read.update(zip(batch, _read(batch, policies[0]), strict=True))
        pause()
    return [read[text] for text in texts]


def _head_text(policy: PolicyText) -> str:
    """Return the head without comments before it and without `@id`, so that equal heads are equal texts."""
    found = _HEAD.match(policy.text, first_token(policy.text))
    if found is None:
        raise _unreadable(policy)
    annotations = [named.group() for named in _NAMED.finditer(found["annotations"]) if named["name"] != "id"]
    return "".join([*annotations, found["scope"]])


def _read(batch: Sequence[str], policy: PolicyText) -> list[PolicyHead]:
    try:
        found = cedarpy.PolicySet.from_str(";\n".join([*batch, ""])).to_pst().static_policies
    except ValueError as error:
        raise _unreadable(policy) from error
    if len(found) != len(batch):
        raise _unreadable(policy)
    return [_head(found[f"policy{position}"]) for position in range(len(batch))]


def _head(node: pst.Template) -> PolicyHead:
    effect = Effect.ALLOW if node.effect == "permit" else Effect.DENY
    annotations = dict(node.annotations) if node.annotations else NO_ANNOTATIONS
    return PolicyHead(effect, scope_keys(node.principal, node.action, node.resource), annotations)


def _unreadable(policy: PolicyText) -> PolicySetInvalid:
    message = "its scope cannot be read; write it as `permit (principal, action, resource)` with plain constraints"
    return PolicySetInvalid((Problem("PolicyParseError", message, policy.id, policy.source, policy.line),))
