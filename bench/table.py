"""The table that every benchmark prints: a figure a row, and whether it holds its target."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARIES = ("grpcio", "cryptography", "cedarpy", "pydantic")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table; `target` is the greatest value allowed, None if there is none."""

    what: str
    value: float
    unit: str
    target: float | None = None

    def text(self) -> str:
        """Return the row."""
        verdict = "" if self.target is None else f"target <= {self.target:g}: {'holds' if self.holds else 'MISSED'}"
        return f"{self.what:<66} {self.value:>10.3f} {self.unit:<3} {verdict}"

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.target is None or self.value <= self.target


def report(description: str, measure: Callable[[], list[Line]]) -> int:
    """Measure, print the table, write it to the file that `--json` names; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    lines = measure()
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(f"# {platform.machine()}, Python {platform.python_version()}, {versions}")
    for line in lines:
        print(line.text())
    if arguments.json:
        figures = [{"what": x.what, "value": x.value, "unit": x.unit, "target": x.target} for x in lines]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(line.holds for line in lines) else 1
