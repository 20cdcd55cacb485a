"""`akpolicy authorize`: ask the sidecar of this host, as a runtime does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from akpolicy.cli.explanations import explanation_json, explanation_text
from akpolicy.cli.option_groups import grouped
from akpolicy.cli.options import OutputOption, examples
from akpolicy.cli.output import EXIT_FAILED, OutputFormat, print_json, print_text
from akpolicy.cli.questions import Question, SocketOption, SubjectOptions, TimeoutOption, from_lines, from_options
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.client import PolicyClient
    from akpolicy.decision import Decision
    from akpolicy.errors import ClientError

# Small enough for a message, large enough to be quick.
BATCH: Final = 100
_SHORT_DIGEST: Final = 12


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "akpolicy authorize --principal alice --org acme --role developer --action Exec --resource ml-project \\",
            "    --attr agent_type=claude --attr runtime=python --context command=pytest",
            "akpolicy authorize --request requests.jsonl --output json | jq -r .decision",
        )
    )(authorize)


@grouped
def authorize(
    *,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Requests as JSON, one a line; - is standard input.")
    ] = None,
    subjects: SubjectOptions,
    action: Annotated[str | None, typer.Option(metavar="NAME", help="Such as Run, Exec, Mount.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A value of the action's context, likewise. May be repeated."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell of every policy whether it applied, and if not, what did not hold.")
    ] = False,
    socket: SocketOption = None,
    timeout: TimeoutOption = 1.0,
    output: OutputOption = "text",
) -> None:
    """Ask whether something is allowed, and print why.

    Exit code 0 if it is (of several requests: if all are), 1 if anything is denied or could not be judged.
    """
    options = {**subjects.required(), "--action": action}
    if request is not None:
        questions = from_lines(request, options)
    else:
        questions = iter([from_options(subjects, action, context or [])])
    ask = _explain_all if explain else _ask_all
    if not ask(questions, socket, timeout, output):
        raise typer.Exit(EXIT_FAILED)


def _ask_all(questions: Iterator[Question], socket: Path | None, timeout: float, output: OutputFormat) -> bool:
    """Ask in batches and print every answer; return whether all are allowed."""
    from akpolicy.client import Decision, PolicyClient, find_socket

    all_allowed, asked = True, False
    with PolicyClient(socket or find_socket(os.environ), timeout=timeout) as client:
        while batch := list(islice(questions, BATCH)):
            asked = True
            answers = _ask(client, batch)
            for question, answer in zip(batch, answers, strict=True):
                all_allowed &= isinstance(answer, Decision) and answer.allowed
                _print_answer(question, answer, output)
    if not asked:
        raise UsageError("there is no question; give at least one request, one JSON object a line")
    return all_allowed


def _explain_all(questions: Iterator[Question], socket: Path | None, timeout: float, output: OutputFormat) -> bool:
    """Ask one by one and print every answer with its explanation; return whether all are allowed."""
    from akpolicy.client import PolicyClient, find_socket
    from akpolicy.errors import BadAnswer, InvalidRequest

    all_allowed = True
    with PolicyClient(socket or find_socket(os.environ), timeout=timeout) as client:
        for question in questions:
            try:
                decision, explanation = client.explain(question.request)
            except (InvalidRequest, BadAnswer) as error:
                _print_answer(question, error, output)
                all_allowed = False
                continue
            all_allowed &= decision.allowed
            if output == "json":
                whole = {**decision.to_json(), "explanation": explanation_json(explanation)}
                print_json({"line": question.line, **whole} if question.line else whole, compact=True)
            else:
                _print_answer(question, decision, output)
                print_text(explanation_text(explanation))
    return all_allowed


def _ask(client: PolicyClient, batch: Sequence[Question]) -> Sequence[Decision | ClientError]:
    from akpolicy.errors import BadAnswer, InvalidRequest

    requests = [question.request for question in batch]
    if len(requests) > 1:
        return client.authorize_many(requests)
    only = requests[0]
    try:
        return [
            client.authorize(principal=only.principal, action=only.action, resource=only.resource, context=only.context)
        ]
    except (InvalidRequest, BadAnswer) as error:
        return [error]


def _print_answer(question: Question, answer: Decision | ClientError, output: OutputFormat) -> None:
    from akpolicy.errors import ClientError

    if output == "json":
        outcome = (
            {"error": {"code": answer.code, "message": answer.message}}
            if isinstance(answer, ClientError)
            else answer.to_json()
        )
        print_json({"line": question.line, **outcome} if question.line else outcome, compact=True)
        return
    where = f"line {question.line}: " if question.line else ""
    if isinstance(answer, ClientError):
        print_text(f"{where}error  {answer.code}: {answer.message}")
    else:
        print_text(f"{where}{answer.effect.value}  {answer.message}\n{decision_text(answer)}")


def decision_text(decision: Decision) -> str:
    """Return what explains a decision, one indented line a fact."""
    age = "never heard from the server" if decision.policy_age_ms < 0 else f"{decision.policy_age_ms} ms old"
    facts = [("reason", decision.reason.value)]
    facts += [("policy", f"{p.scope} {p.policy_id} ({p.effect.value})") for p in decision.determining]
    facts += [("problem", f"{e.scope} {e.policy_id} {e.message}".strip()) for e in decision.errors]
    facts += [
        ("bundle", f"{b.scope} version {b.version} (epoch {b.epoch}, digest {b.digest[:_SHORT_DIGEST]})")
        for b in decision.bundles
    ]
    facts += [
        ("mode", f"{decision.mode.value}, policies from {decision.source.value}, {age}"),
        ("decision", f"{decision.decision_id} in {decision.evaluation_time_us} us"),
    ]
    return "\n".join(f"  {name:<8}  {value}" for name, value in facts)
