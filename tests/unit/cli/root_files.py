"""Proposals of roots on an operator's disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.proposal import parse_proposal
from akpolicy.root import Root

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy.proposal import Proposal
    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import Run


def read(path: Path) -> Proposal:
    return parse_proposal(path.read_bytes())


def root_in(path: Path) -> Root:
    document = read(path).document
    assert isinstance(document, Root)
    return document


def propose(cli: Run, server: PublishingSimulator, out: Path, *options: object) -> None:
    result = cli("root", "propose", "--org", "acme", "--anchor", server.org.anchor, "--out", out, *options)
    assert result.code == 0, result.err
