"""Cases run: what came out otherwise than expected, and which policies were tried at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from akpolicy.engine.files import PolicyFile, read_policies
from akpolicy.engine.schema import load_default_schema, parse_schema
from akpolicy.errors import RequestInvalid, UsageError
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_SCHEMA_BYTES
from akpolicy.simulation.cases import REFUSED
from akpolicy.simulation.inputs import read_input
from akpolicy.simulation.layers import Layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.engine.verdict import Verdict
    from akpolicy.simulation.cases import Case, CaseFile


@dataclass(frozen=True, slots=True)
class Result:
    """A case that was run. `problems` say what came out otherwise; `policies` determined the decision."""

    case: Case
    outcome: str
    message: str
    policies: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything came out as expected."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class FileResult:
    """A file of cases that was run; `texts` are all policies that its layers have, by `<scope>/<policy id>`."""

    file: CaseFile
    results: tuple[Result, ...]
    texts: Mapping[str, str]

    @property
    def covered(self) -> frozenset[str]:
        """The policies that determined the decision of a case."""
        return frozenset(name for result in self.results for name in result.policies)

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The policies that determined no decision of any case of this file."""
        covered = self.covered
        return tuple(name for name in self.texts if name not in covered)


def run_cases(file: CaseFile) -> FileResult:
    """Run the cases of a file.

    Raises `UsageError` for a file that cannot be read, `PolicyError` for policies that cannot be enforced.
    """
    layers = load_layers(file)
    return FileResult(file, tuple(_run(case, layers) for case in file.cases), dict(layers.policies()))


def load_layers(file: CaseFile) -> Layers:
    """Compile the policies of a file of cases."""
    schema = _schema(file.schema)
    policies = {
        scope: read_policies([PolicyFile(str(path), read_input(path, MAX_CONTENT_BYTES)) for path in paths], schema)
        for scope, paths in file.layers.items()
    }
    return Layers.compiled(file.org, policies, schema)


def _run(case: Case, layers: Layers) -> Result:
    try:
        if isinstance(case.request, RequestInvalid):
            raise case.request
        verdict = layers.decide(case.request, source=case.source)
    except RequestInvalid as error:
        return Result(case, REFUSED, error.message, (), tuple(_refusal_problems(case, error)))
    named = tuple(f"{policy.scope}/{policy.policy_id}" for policy in verdict.determining)
    return Result(case, verdict.effect.value, verdict.message, named, tuple(_problems(case, verdict, named)))


def _refusal_problems(case: Case, error: RequestInvalid) -> Iterator[str]:
    if case.expect != REFUSED:
        yield f"expected {case.expect}, but the request is refused: {error.message}"
    elif case.field and case.field != error.field:
        yield f"expected a refusal for `{case.field}`, but it is for `{error.field}`: {error.message}"


def _problems(case: Case, verdict: Verdict, named: tuple[str, ...]) -> Iterator[str]:
    if case.expect != verdict.effect.value:
        yield f"expected {case.expect}, got {verdict.effect.value} ({verdict.message})"
    if case.reason not in {"", verdict.reason.value}:
        yield f"expected the reason {case.reason}, got {verdict.reason.value}"
    if case.deciding_layer not in {None, verdict.deciding_layer}:
        yield f"expected `{case.deciding_layer}` to decide, not `{verdict.deciding_layer}`"
    if case.policies is None:
        return
    for name in case.policies:
        meant = [full for full in named if name in (full, full.rsplit("/", 1)[-1])]
        if not meant:
            yield f"expected `{name}` to determine it, which did not"
        elif len(meant) > 1:
            listed = " and ".join(f"`{full}`" for full in meant)
            yield f"`{name}` is {listed}, which both determined it; write them out"
    for name in sorted(named):
        if not {name, name.rsplit("/", 1)[-1]} & set(case.policies):
            yield f"`{name}` determined it too, which was not expected"


def _schema(path: Path | None) -> CedarSchema:
    if path is None:
        return load_default_schema()
    try:
        return parse_schema(read_input(path, MAX_SCHEMA_BYTES).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is not UTF-8 (byte {error.start}); save it as UTF-8") from error
