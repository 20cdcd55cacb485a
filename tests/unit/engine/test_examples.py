"""The twelve example requests are decided as they say, by the policies that they name."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.engine.cedar_request import build
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.decide import Effect, Reason, decide
from akpolicy.engine.request import request_from_json
from akpolicy.engine.source import split_policies

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

_LINES = resources.files("akpolicy").joinpath("examples", "requests.jsonl").read_text(encoding="utf-8").splitlines()


def test_there_are_twelve_examples() -> None:
    assert len(_LINES) == 12


@pytest.mark.parametrize("example", [json.loads(line) for line in _LINES])
def test_an_example_is_decided_as_it_says(example: dict[str, Any], example_policies: str, schema: CedarSchema) -> None:
    request = request_from_json(example)
    org = request.principal.org_id
    layer = compile_layer(f"org/{org}", split_policies(example_policies, source="policies.cedar"), schema)

    verdict = decide([layer], build(request, org=org, source="runtime"), schema)

    assert verdict.effect is Effect(example["expect"])
    assert [policy.policy_id for policy in verdict.determining] == example["by"]
    assert verdict.deciding_layer == (f"org/{org}" if example["by"] else "")
    assert verdict.errors == ()
    assert (verdict.reason is Reason.NO_PERMIT) == (not example["by"])
