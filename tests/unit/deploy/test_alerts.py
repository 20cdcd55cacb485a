"""The alert rules: only metrics that exist, each alert tested, and promtool has nothing to say against them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from akpolicy import metrics_names

PLACE: Final = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"
RULES: Final = PLACE / "akpolicy.rules.yml"
TESTS: Final = PLACE / "akpolicy.tests.yml"


def alerts() -> list[dict[str, Any]]:
    """Return every alert rule."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def known() -> dict[str, tuple[str, ...]]:
    """Return every metric with its labels."""
    values = vars(metrics_names).values()
    return {each.name: each.labels for each in values if isinstance(each, metrics_names.MetricName)}


@pytest.mark.parametrize("file", [RULES, TESTS], ids=["rules", "tests"])
def test_every_metric_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"\bakpolicy_(?:server|sidecar)_\w+", file.read_text(encoding="utf-8")))

    assert len(named) > 20
    assert named <= known().keys()


def test_every_label_that_is_chosen_by_is_one_of_the_metric() -> None:
    metrics = known()
    for alert in alerts():
        for name, chosen in re.findall(r"(akpolicy_\w+)\{([^}]*)\}", alert["expr"]):
            assert set(re.findall(r"(\w+)=", chosen)) <= {*metrics[name], "job"}, alert["alert"]


def test_every_expiry_has_an_alert() -> None:
    expiries = {name for name in known() if "expiry" in name}
    # That of the heartbeat comes every few minutes, and `fresh` says when it is missed.
    watched = {name for alert in alerts() for name in re.findall(r"akpolicy_\w+expiry\w+", alert["expr"])}

    assert expiries - watched == {"akpolicy_sidecar_heartbeat_expiry_timestamp_seconds"}


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}, alert["alert"]
        assert alert["annotations"].keys() == {"summary", "action"}, alert["alert"]


def test_every_alert_fires_in_a_test() -> None:
    tested = set(re.findall(r'alertname="(\w+)"', TESTS.read_text(encoding="utf-8")))

    assert {alert["alert"] for alert in alerts()} == tested


@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize("command", [("check", RULES), ("test", TESTS)], ids=["check", "test"])
def test_promtool_agrees(command: tuple[str, Path]) -> None:
    what, file = command
    done = subprocess.run(
        ["promtool", what, "rules", str(file)], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs_program("promtool")
def test_a_rule_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    rules = RULES.read_text(encoding="utf-8").replace(
        'up{job="akpolicy-server"} == 0', 'up{job="akpolicy-server"} == 2'
    )
    (tmp_path / RULES.name).write_text(rules, encoding="utf-8")
    (tmp_path / TESTS.name).write_bytes(TESTS.read_bytes())

    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / TESTS.name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, "AkpolicyServerDown" in done.stdout + done.stderr) == (1, True)
