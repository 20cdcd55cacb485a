"""docs/operations/fleet.md, typed as it stands there, against a real server and two real hosts."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Final

import pytest

from akpolicy import metrics_names
from tests.integration.docs.pages import blocks, column, read
from tests.integration.e2e.world import World, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = read("docs/operations/fleet.md")
STATUS, PIPELINE, HOSTS = (block.text.splitlines() for block in blocks(PAGE, "console"))
[SHOWN] = [block.text for block in blocks(PAGE, "text")]


@pytest.fixture(scope="module")
def fleet() -> Iterator[World]:
    """A server with two hosts."""
    with World() as world:
        world.init("acme")
        world.start_server()
        for host in ("host-1", "host-2"):
            world.start_sidecar(host)
        (world.directory / "acme.cedar").write_text(permit("all"), encoding="utf-8")
        wait_until(lambda: "2 hosts connected" in world.cli(*shlex.split(STATUS[0])[1:]).stdout, what="both hosts")
        yield world


def test_status_is_the_table_that_the_page_shows(fleet: World) -> None:
    done = fleet.cli(*shlex.split(STATUS[0])[1:])
    assert (done.returncode, done.stderr) == (0, "")
    headers = [re.split(r"\s{2,}", text.splitlines()[2]) for text in (done.stdout, SHOWN)]
    assert headers[0] == headers[1]
    assert done.stdout.splitlines()[:2] == SHOWN.splitlines()[:2]


def test_a_pipeline_waits_until_every_host_enforces_what_was_published(fleet: World) -> None:
    for command in PIPELINE:
        done = fleet.cli(*shlex.split(command)[1:])
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    newer = fleet.cli("fleet", "status", "--org", "acme", "--version", "2")
    assert (newer.returncode, newer.stderr) == (1, "error: org/acme has no version 2; the newest is 1\n")
    waited = fleet.cli("fleet", "status", "--wait", "version=2", "org=acme", "--timeout", "1s", "--output", "json")
    assert waited.returncode == 1
    assert json.loads(waited.stdout)["scopes"][1]["oldest_version"] == 1


def test_hosts_are_listed(fleet: World) -> None:
    listed, behind = (fleet.cli(*shlex.split(command)[1:]) for command in HOSTS)
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
        ["host-1", "connected"],
        ["host-2", "connected"],
    ]
    assert json.loads(behind.stdout) == []


def test_the_metrics_are_those_of_the_server() -> None:
    names = {value.name for value in vars(metrics_names).values() if isinstance(value, metrics_names.MetricName)}
    told = {re.sub(r"\{.*", "", cell.strip("`")) for cell in column(PAGE, "metric")}
    assert told <= names
