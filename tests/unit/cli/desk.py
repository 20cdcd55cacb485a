"""An operator who inspects files, and what the report says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.envelope import SignedEnvelope
from akpolicy.strict_json import dump
from akpolicy.wire import envelope_to_bytes
from tests.simulators.clock import START, ManualClock
from tests.simulators.org import OrgSimulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Result, Run


AT = "2027-01-15T08:00:00Z"  # tests.simulators.clock.START


class Desk:
    """An operator's directory with documents of an org."""

    def __init__(self, cli: Run, directory: Path) -> None:
        self.cli = cli
        self.directory = directory
        self.org = OrgSimulator("acme", ManualClock(START))
        self.root = self.org.root_envelope()

    def write(self, name: str, data: bytes | SignedEnvelope, *, as_json: bool = False) -> Path:
        path = self.directory / name
        if isinstance(data, SignedEnvelope):
            data = dump(data.to_dsse_json()) if as_json else envelope_to_bytes(data)
        path.write_bytes(data)
        return path

    def inspect(self, path: Path, *options: object, at: str = AT) -> Result:
        return self.cli("inspect", path, "--at", at, *options)

    def trusting(self) -> list[object]:
        """Return the options that give the root and the anchor."""
        return ["--root", self.write("root.json", self.root, as_json=True), "--anchor", self.org.anchor]


def said(result: Result, outcome: str) -> list[str]:
    """Return what the report says with this outcome."""
    lines = [line.strip() for line in result.out.splitlines()]
    return [line.removeprefix(outcome).strip() for line in lines if line.startswith(f"{outcome} ")]


def codes(result: Result) -> set[str]:
    return {line.split(":")[0] for line in said(result, "FAILED")}
