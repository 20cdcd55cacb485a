"""Mutants, and by what they are known.

mutmut numbers the mutants of a function, and every edit shifts the numbers. So a mutant is known by its module, its
function and the change itself: the lines that it removes and those that it adds, without their indentation. Where one
function has the same change several times, `occurrence` counts them from 1.

Python looks codecs up without regard to case, so a change of `"ascii"` to `"ASCII"` is not counted as one.
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mutmut.mutation.file_mutation import MutatedFile

_ORIGINAL = "_orig"
_CODECS: Final = {"ASCII": "ascii", "UTF-8": "utf-8"}


class Change(NamedTuple):
    """What a mutant does to a function."""

    module: str
    function: str
    removed: str
    added: str
    occurrence: int = 1


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mutant; `name` switches it on, `lines` are those of the changed statement in the mutated file `path`."""

    name: str
    path: str
    change: Change
    lines: range


def mutants_of(path: Path, mutated: MutatedFile) -> list[Mutant]:
    """Return the mutants of one mutated file; `path` is relative to the working copy."""
    module = path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    lines = mutated.code.split("\n")
    seen: Counter[Change] = Counter()
    mutants = []
    for name in mutated.mutant_names:
        mangled = name.rpartition("__mutmut_")[0]
        original, mutant = (
            lines[span.start - 1 : span.end]
            for span in (mutated.line_span_by_function_name[n] for n in (f"{mangled}__mutmut{_ORIGINAL}", name))
        )
        first = mutated.line_span_by_function_name[f"{mangled}__mutmut{_ORIGINAL}"].start
        mutant = [line.replace(f"{name}(", f"{mangled}__mutmut{_ORIGINAL}(") for line in mutant]
        removed, added, at = difference(original, mutant)
        if same_codec(removed, added):
            continue
        key = Change(module, function_name(mangled), removed, added)
        seen[key] += 1
        statement = statement_around(original, at)
        mutants.append(
            Mutant(
                f"{module}.{name}",
                path.as_posix(),
                key._replace(occurrence=seen[key]),
                range(first + statement.start, first + statement.stop),
            )
        )
    return mutants


def function_name(mangled: str) -> str:
    """Return the name that the source has for mutmut's: `f` for `x_f`, `C.f` for `xǁCǁf`."""
    return mangled.removeprefix("x_") if mangled.startswith("x_") else mangled.removeprefix("xǁ").replace("ǁ", ".")


def difference(original: Sequence[str], mutant: Sequence[str]) -> tuple[str, str, int]:
    """Return the lines that are removed and those that are added, and the index of the first."""
    start = 0
    while start < min(len(original), len(mutant)) and original[start] == mutant[start]:
        start += 1
    end = 0
    while end < min(len(original), len(mutant)) - start and original[-1 - end] == mutant[-1 - end]:
        end += 1
    removed, added = (lines[start : len(lines) - end] for lines in (original, mutant))
    return _joined(removed), _joined(added), start


def same_codec(removed: str, added: str) -> bool:
    """Whether a change is nothing but another spelling of the name of a codec."""
    for name, usual in _CODECS.items():
        added = added.replace(name, usual)
    return removed == added


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(line.strip() for line in lines)


def statement_around(function: Sequence[str], at: int) -> range:
    """Return the lines of the innermost statement around line `at` of a function; of a block, only its head.

    All counts begin with 0. The head of the function itself stands for the whole function: its defaults matter wherever
    it is called.
    """
    tree = ast.parse(textwrap.dedent("\n".join(function)))
    node = max(
        (node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno - 1 <= at < _end(node)),
        key=lambda node: node.lineno,
    )
    body = getattr(node, "body", None)
    if isinstance(node, ast.FunctionDef) or not body or at >= body[0].lineno - 1:
        return range(node.lineno - 1, _end(node))
    return range(node.lineno - 1, body[0].lineno - 1)


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def drawn(mutants: Sequence[Mutant], count: int, seed: str) -> list[Mutant]:
    """Return `count` of the mutants (all, if there are not so many), the same ones for the same seed."""
    ordered = sorted(mutants, key=lambda mutant: mutant.name)
    if count >= len(ordered):
        return ordered
    return sorted(Random(seed).sample(ordered, count), key=lambda mutant: mutant.name)  # noqa: S311 - no secret
