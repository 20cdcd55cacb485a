"""The annotations that mean something: what a permit of Create or Run grants beyond the action, and what it caps.

Rules:

- `@pass_env("true")` and `@allow_privileged("true")` grant; `@max_memory_mb("2048")`, `@max_cpu_percent("100")`,
  `@seccomp("name")` and `@read_only_root("true")` cap. All others are their author's own.
- A value is exactly `true` or `false`, a whole number from 1 on without sign and leading zeros, or a name of up to 63
  of `A-Z a-z 0-9 . _ -` that begins with a letter or digit.
- What could have no effect is a mistake, because its author relies on it: on a `forbid`, and on a permit that can
  permit neither Create nor Run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from akpolicy.engine.locate import name_line
from akpolicy.engine.source import problem_of
from akpolicy.engine.verdict import Effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from akpolicy.engine.heads import PolicyHead
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.source import PolicyText
    from akpolicy.errors import Problem

FLAGS: Final = ("pass_env", "allow_privileged", "read_only_root")
NUMBERS: Final = ("max_memory_mb", "max_cpu_percent")
NAMES: Final = ("seccomp",)
KNOWN: Final = frozenset((*FLAGS, *NUMBERS, *NAMES))
CAPPED_ACTIONS: Final = ("Create", "Run")

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,9}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Caps:
    """What the annotations of one permit grant and cap; None caps nothing."""

    pass_env: bool = False
    allow_privileged: bool = False
    read_only_root: bool = False
    max_memory_mb: int | None = None
    max_cpu_percent: int | None = None
    seccomp: str | None = None


def caps_of(annotations: Mapping[str, str]) -> Caps:
    """Return what annotations mean that `annotation_problems` has nothing against."""
    return Caps(
        pass_env=annotations.get("pass_env") == "true",
        allow_privileged=annotations.get("allow_privileged") == "true",
        read_only_root=annotations.get("read_only_root") == "true",
        max_memory_mb=_number(annotations.get("max_memory_mb")),
        max_cpu_percent=_number(annotations.get("max_cpu_percent")),
        seccomp=annotations.get("seccomp"),
    )


def annotation_problems(
    policies: Sequence[PolicyText], heads: Sequence[PolicyHead], schema: CedarSchema
) -> list[tuple[int, Problem]]:
    """Return the position and the problem of each annotation that is malformed or could have no effect."""
    found = []
    capped = {key for action in CAPPED_ACTIONS for key in schema.action_keys(*schema.action_uid(action))}
    for position, (policy, head) in enumerate(zip(policies, heads, strict=True)):
        if KNOWN.isdisjoint(head.annotations):
            continue
        for name, message in _mistakes(head, capped):
            problem = problem_of(policy, "PolicyAnnotationInvalid", message, line=name_line(policy, f"`{name}`"))
            found.append((position, problem))
    return found


def _mistakes(head: PolicyHead, capped: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each annotation with a mistake, and the mistake."""
    for name in sorted(KNOWN.intersection(head.annotations)):
        value = head.annotations[name]
        if wrong := _wrong(name, value):
            yield name, f'`@{name}("{value[:80]}")` {wrong}'
        elif head.effect is Effect.DENY:
            yield name, f"`@{name}` on a `forbid` has no effect; put it on the permits of Create and Run"
        elif capped.isdisjoint(head.keys[1]):
            yield name, f"`@{name}` has an effect on permits of Create and Run only, and this can permit neither"


def _wrong(name: str, value: str) -> str:
    if name in FLAGS:
        return "" if value in {"true", "false"} else 'must be "true" or "false"'
    if name in NUMBERS:
        return "" if _NUMBER.fullmatch(value) else 'must be a whole number such as "2048", from 1 to 9999999999'
    return "" if _NAME.fullmatch(value) else "must be a name of 1 to 63 of `A-Z a-z 0-9 . _ -`"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None else None
