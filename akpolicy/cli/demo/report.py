"""The demo's findings on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from akpolicy.cli.demo.script import DECISIONS_METRIC

if TYPE_CHECKING:
    from rich.console import Console

    from akpolicy.cli.demo.findings import Answer, Findings


def show(console: Console, findings: Findings) -> None:
    """Print what was found, step by step."""
    console.print(_table("Twelve questions, answered by the sidecars", findings.answers))
    _show_update(console, findings)
    _show_attack(console, findings)
    _show_rotation(console, findings)
    console.print(_table("The server is gone; decisions go on from the verified cache", findings.offline))
    _show_metrics(console, findings.metrics)
    if findings.as_expected:
        console.print("[green]everything is as expected[/green]")
    else:
        console.print("[red]not everything is as expected: see the marked rows[/red]")


def _table(title: str, answers: list[Answer]) -> Table:
    table = _plain_table(title)
    for column in ("who", "asks for", "decision", "why"):
        table.add_column(column, overflow="fold")
    for answer in answers:
        request = answer.example.request
        colour = "green" if answer.effect == "allow" else "red"
        why = ", ".join(answer.policies) or answer.decision.reason.name.lower().replace("_", " ")
        table.add_row(
            f"{request.principal.id}@{request.principal.org_id}",
            f"{request.action} {request.resource.id}",
            f"[{colour}]{answer.effect}[/{colour}]",
            why if answer.as_expected else f"{why} [red](expected {answer.example.expected})[/red]",
        )
    return table


def _plain_table(title: str) -> Table:
    # The title is bold and left, and there are no frames: it must fit 80 columns and read well in a log.
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def _show_update(console: Console, findings: Findings) -> None:
    if findings.flipped is None:
        return
    before, after = findings.flipped
    request = after.example.request
    console.print(
        f"[bold]A change[/bold]: {request.principal.id} may {request.action} in {request.resource.id}: "
        f"{before.effect} -> {after.effect} by {', '.join(after.policies)}, "
        f"enforced {findings.enforced_after_ms:.0f} ms after publish was called\n"
    )


def _show_attack(console: Console, findings: Findings) -> None:
    attack = findings.attack
    if attack is None:
        return
    request = attack.after.example.request
    _paragraph(
        console,
        "An attack",
        "a middleman turned forbids of the next version into permits, and made its digests fit. The host refused it as "
        f"{attack.refused_as or 'nothing'} and told the server. It enforces version {attack.versions[1]} as before: "
        f"{request.action} in {request.resource.id} is {attack.after.effect}",
        as_expected=attack.as_expected,
    )


def _show_rotation(console: Console, findings: Findings) -> None:
    rotation = findings.rotation
    if rotation is None:
        return
    _paragraph(
        console,
        "A key rotation",
        f"root {rotation.root[0]} -> {rotation.root[1]}, signed by the old and the new root key. The host followed "
        f"{rotation.followed_after_ms:.0f} ms after the command began, made {rotation.decisions} decisions meanwhile, "
        f"{rotation.refused} of them not as before, and enforces version {rotation.bundle_after}, published under the "
        "new root",
        as_expected=rotation.as_expected,
    )


def _paragraph(console: Console, title: str, text: str, *, as_expected: bool) -> None:
    console.print(f"[bold]{title}[/bold]: {text}{'' if as_expected else ' [red](not as expected)[/red]'}\n")


def _show_metrics(console: Console, metrics: dict[str, float]) -> None:
    table = _plain_table(f"{DECISIONS_METRIC}, both sidecars")
    table.add_column("labels")
    table.add_column("value", justify="right")
    for series, value in sorted(metrics.items()):
        table.add_row(series.removeprefix(DECISIONS_METRIC), f"{value:.0f}")
    console.print(table)
