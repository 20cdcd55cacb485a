"""`akpolicy policy test` and `diff`: policies tried out before they are published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akpolicy.cli.files import STDIN, read_policy_files
from akpolicy.cli.options import OutputOption, examples, named_path
from akpolicy.cli.output import EXIT_FAILED, counted, print_json, print_note, print_text
from akpolicy.cli.questions import from_lines
from akpolicy.cli.rewritten_files import shown_path
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.simulation.coverage import Coverage
    from akpolicy.simulation.layers import Layers
    from akpolicy.simulation.runner import FileResult

MAX_PERCENT = 100


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the group `policy`."""
    app.command(
        name="test",
        epilog=examples(
            "akpolicy policy test cases.yaml",
            "akpolicy policy test cases/ --junit report.xml --coverage --min-coverage 100",
        ),
    )(run_tests)
    app.command(
        epilog=examples(
            "akpolicy policy diff policies.cedar candidate.cedar --requests requests.jsonl",
            "akpolicy policy diff policies/ candidate/ --requests log.jsonl --org acme --output json | jq .changed",
        )
    )(diff)


def run_tests(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=named_path, metavar="FILES", help="Files of cases; a directory means its *.yaml and *.yml files."
        ),
    ],
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the results as JUnit XML.")] = None,
    coverage: Annotated[bool, typer.Option("--coverage", help="Tell which policies no case has tried.")] = False,
    min_coverage: Annotated[
        int, typer.Option(min=0, max=MAX_PERCENT, metavar="PERCENT", help="Fail if fewer policies are tried.")
    ] = 0,
    output: OutputOption = "text",
) -> None:
    """Decide cases and compare with what they expect. Nothing is asked or published.

    Exit code 0 if all come out as expected, 1 if not or if the coverage is too low, 2 for files that make no sense.
    """
    from akpolicy.simulation.cases import read_cases
    from akpolicy.simulation.coverage import Coverage
    from akpolicy.simulation.junit import junit_xml
    from akpolicy.simulation.runner import run_cases

    results = [run_cases(read_cases(path)) for path in _case_files(files)]
    if junit is not None:
        _write(junit, junit_xml(results))
    covered = Coverage.of(results)
    if output == "json":
        print_json(_results_json(results, covered))
    else:
        _print_results(results, covered, coverage=coverage)
    failed = sum(not result.passed for file in results for result in file.results)
    if failed:
        print_note(f"error: {counted([None] * failed, 'case')} came out otherwise")
    if not covered.reaches(min_coverage):
        print_note(f"error: {int(covered.percent)} % of the policies are tried, less than {min_coverage} %")
    if failed or not covered.reaches(min_coverage):
        raise typer.Exit(EXIT_FAILED)


def diff(
    *,
    before: Annotated[
        Path, typer.Argument(parser=named_path, metavar="A", help="Policies as they are: a file, or a directory.")
    ],
    after: Annotated[Path, typer.Argument(parser=named_path, metavar="B", help="Policies as they would be.")],
    requests: Annotated[
        Path, typer.Option(metavar="FILE", help="Requests as for `authorize`, one a line; - is standard input.")
    ],
    org: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The org whose hosts would decide. Without it: the requests' own."),
    ] = None,
    output: OutputOption = "text",
) -> None:
    """Replay requests against two sets of policies and print what would change, by policy.

    Exit code 0 if nothing would be decided otherwise, 1 if something would or if no request could be compared.
    """
    from akpolicy.cli.difference_text import difference_json, difference_note, difference_text
    from akpolicy.simulation.difference import compare

    if [before, after, requests].count(STDIN) > 1:
        raise UsageError("standard input can be read for one thing only; name files for the others")
    asked = [(question.line, question.request) for question in from_lines(requests, {})]
    if not asked:
        raise UsageError(f"`{requests}` has no request; give at least one, one JSON object a line")
    name = asked[0][1].principal.org_id if org is None else org
    found = compare(_layers(before, name), _layers(after, name), asked)
    if output == "json":
        print_json(difference_json(found))
    elif found.compared:
        print_text(difference_text(found))
    if note := difference_note(found, name):
        print_note(note)
    if found.changed or not found.compared:
        raise typer.Exit(EXIT_FAILED)


# --- test -------------------------------------------------------------------------------------------------------------


def _case_files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in {".yaml", ".yml"} and file.is_file())
            if not files:
                raise UsageError(f"the directory `{path}` has no *.yaml file")
        for file in files:
            if file in found:
                raise UsageError(f"`{shown_path(file)}` is named twice")
            found[file] = None
    return list(found)


def _print_results(results: Sequence[FileResult], covered: Coverage, *, coverage: bool) -> None:
    told: set[tuple[str, str]] = set()
    for file, untried in zip(results, covered.untried, strict=True):
        path = shown_path(file.file.path)
        for result in file.results:
            for problem in result.problems:
                print_text(f"{path}:{result.case.line}: {result.case.name}: {problem}")
        for policy in untried if coverage else ():
            if (policy, file.texts[policy]) not in told:
                print_text(f"{path}: no case is determined by `{policy}`")
            told.add((policy, file.texts[policy]))
    total = sum(len(file.results) for file in results)
    passed = sum(result.passed for file in results for result in file.results)
    tried = f"{int(covered.percent)} % of the policies tried"
    print_text(f"{passed} of {counted([None] * total, 'case')} passed, {tried}")


def _results_json(results: Sequence[FileResult], covered: Coverage) -> dict[str, object]:
    return {
        "passed": all(result.passed for file in results for result in file.results),
        "coverage_percent": covered.percent,
        "files": [
            {
                "file": shown_path(file.file.path),
                "cases": [
                    {
                        "name": result.case.name,
                        "line": result.case.line,
                        "passed": result.passed,
                        "outcome": result.outcome,
                        "policies": list(result.policies),
                        "problems": list(result.problems),
                    }
                    for result in file.results
                ],
                "uncovered": list(untried),
            }
            for file, untried in zip(results, covered.untried, strict=True)
        ],
    }


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from error


# --- diff -------------------------------------------------------------------------------------------------------------


def _layers(path: Path, org: str) -> Layers:
    from akpolicy.engine.files import read_policies
    from akpolicy.engine.schema import load_default_schema
    from akpolicy.scope import is_org_name, org_scope
    from akpolicy.simulation.layers import Layers

    if not is_org_name(org):
        raise UsageError(f"`{org}` is no name of an org; give `--org NAME`")
    schema = load_default_schema()
    return Layers.compiled(org, {org_scope(org): read_policies(read_policy_files([path]), schema)}, schema)
