"""Annotations that mean something are right, or the policy is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.engine.annotations import Caps, caps_of
from akpolicy.engine.check import check_policies
from akpolicy.engine.source import split_policies

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from tests.unit.engine.conftest import MakeLayer

RUN = 'permit (principal, action == AgentKernel::Action::"Run", resource);'


def found(text: str, schema: CedarSchema) -> list[tuple[str, int, str]]:
    problems = check_policies(split_policies(text, source="p.cedar"), schema)
    return [(problem.code, problem.line, problem.message) for problem in problems]


def test_annotations_are_read_as_they_are_written(make_layer: MakeLayer) -> None:
    layer = make_layer(
        '@id("p") @pass_env("true") @allow_privileged("false") @read_only_root("true") @max_memory_mb("2048")'
        f' @max_cpu_percent("50") @seccomp("strict-1.json") @owner("team \\"a\\"") {RUN}'
    )

    assert caps_of(layer.policies[0].annotations) == Caps(True, False, True, 2048, 50, "strict-1.json")
    assert layer.policies[0].annotations["owner"] == 'team "a"'
    assert caps_of({}) == Caps()


@pytest.mark.parametrize(
    "annotation",
    [
        '@pass_env("yes")',
        '@pass_env("True")',
        "@pass_env",
        '@allow_privileged("")',
        '@read_only_root("1")',
        '@max_memory_mb("0")',
        '@max_memory_mb("-1")',
        '@max_memory_mb("2 GB")',
        '@max_memory_mb("02048")',
        '@max_memory_mb("\\u{0662}")',
        '@max_memory_mb("99999999999")',
        '@max_cpu_percent("1.5")',
        '@seccomp("")',
        '@seccomp("../etc")',
        '@seccomp("-x")',
    ],
)
def test_a_malformed_annotation_is_refused_with_its_line(annotation: str, schema: CedarSchema) -> None:
    [(code, line, message)] = found(f'@id("p")\n{annotation}\n{RUN}', schema)

    assert (code, line) == ("PolicyAnnotationInvalid", 2)
    assert annotation.split("(", maxsplit=1)[0] in message


@pytest.mark.parametrize(
    "head",
    [
        'forbid (principal, action == AgentKernel::Action::"Run", resource);',
        'permit (principal, action == AgentKernel::Action::"Exec", resource);',
        'permit (principal, action in [AgentKernel::Action::"Exec", AgentKernel::Action::"Attach"], resource);',
        "permit (principal, action in [], resource);",
    ],
)
def test_an_annotation_without_an_effect_is_refused(head: str, schema: CedarSchema) -> None:
    codes = [code for code, _, _ in found(f'@id("p") @max_memory_mb("1") {head}', schema)]

    assert "PolicyAnnotationInvalid" in codes or codes == ["PolicyValidationError"]


@pytest.mark.parametrize(
    "head",
    [
        RUN,
        "permit (principal, action, resource);",
        'permit (principal, action in [AgentKernel::Action::"Exec", AgentKernel::Action::"Create"], resource);',
    ],
)
def test_annotations_on_permits_of_create_and_run_are_fine(head: str, schema: CedarSchema) -> None:
    assert found(f'@id("p") @max_memory_mb("1") {head}', schema) == []
