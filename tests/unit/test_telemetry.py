"""Logging: one JSON object a line, in its own process, and no secret in it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from akpolicy.telemetry import REDACTED, redact

SCRIPT = """
import logging, structlog
from akpolicy.telemetry import configure_logging
log = structlog.get_logger("first")
configure_logging("info", "{form}", "akpolicy-test")
log.info("started", port=1, api_key="hunter2", headers={{"authorization": "hunter2"}})
log.debug("hidden")
logging.getLogger("library").warning("from %s", "logging")
logging.getLogger("grpc").info("hidden")
def fail():
    password = "hunter2"
    raise ValueError("broken")
try:
    fail()
except ValueError:
    log.exception("failed")
"""


def run(form: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(form=form)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


def test_without_a_terminal_each_record_is_one_json_line_on_standard_error() -> None:
    result = run("auto")
    records: list[dict[str, Any]] = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(record["event"], record["level"]) for record in records] == [
        ("started", "info"),
        ("from logging", "warning"),
        ("failed", "error"),
    ]
    assert {record["program"] for record in records} == {"akpolicy-test"}
    assert all(record["timestamp"].endswith("Z") for record in records)
    assert records[0]["port"] == 1
    assert "ValueError: broken" in records[2]["exception"]
    assert result.stdout == ""


def test_no_secret_is_logged_in_either_form() -> None:
    for form in ("json", "console"):
        assert "hunter2" not in run(form).stderr


def test_the_console_form_is_for_people() -> None:
    first = run("console").stderr.splitlines()[0]
    assert "started" in first
    assert not first.startswith("{")


def test_fields_that_mean_a_secret_are_redacted_wherever_they_stand() -> None:
    event = {"a": 1, "api_key_env": "NAME", "key_id": "k", "list": [{"Password": "x"}, "y"], "session_token": "t"}
    assert redact(None, "info", event) == {
        "a": 1,
        "api_key_env": "NAME",
        "key_id": "k",
        "list": [{"Password": REDACTED}, "y"],
        "session_token": REDACTED,
    }
