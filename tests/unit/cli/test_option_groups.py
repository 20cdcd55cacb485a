"""Groups of options: written once, seen one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from akpolicy.cli.option_groups import OptionGroup, grouped


@dataclass(frozen=True)
class Where(OptionGroup):
    place: Annotated[str, typer.Option(envvar="TEST_PLACE", help="Where to.")] = "here"
    times: Annotated[list[int] | None, typer.Option("--times")] = None


@dataclass(frozen=True)
class Elsewhere(Where):
    place: Annotated[str, typer.Option(help="Where else.")] = "there"


def app(seen: list[object]) -> typer.Typer:
    made = typer.Typer()

    @made.command()
    @grouped
    def near(name: Annotated[str, typer.Argument()], *, where: Where, loud: bool = False) -> None:
        """Say something here."""
        seen.append((name, where, loud))

    @made.command()
    @grouped
    def far(*, where: Elsewhere) -> None:
        seen.append(where)

    return made


def test_a_command_gets_the_group_that_its_options_make() -> None:
    seen: list[object] = []
    runner = CliRunner()
    assert runner.invoke(app(seen), ["near", "x", "--place", "p", "--times", "1", "--times", "2"]).exit_code == 0
    assert runner.invoke(app(seen), ["near", "y", "--loud"], env={"TEST_PLACE": "env"}).exit_code == 0
    assert runner.invoke(app(seen), ["far"], env={"TEST_PLACE": "env"}).exit_code == 0
    assert seen == [("x", Where("p", [1, 2]), False), ("y", Where("env"), True), Elsewhere("there")]


def test_help_shows_the_options_of_a_group() -> None:
    shown = CliRunner().invoke(app([]), ["near", "--help"]).output
    assert "Say something here." in shown
    assert "--place" in shown
    assert "where" not in shown.replace("Where to.", "")


def test_an_option_without_a_default_is_a_mistake_of_the_group() -> None:
    @dataclass(frozen=True)
    class Wrong(OptionGroup):
        names: list[str] = field(default_factory=list)

    def command(*, wrong: Wrong) -> None:
        raise AssertionError(wrong)

    command.__annotations__ = {"wrong": Wrong}
    with pytest.raises(TypeError, match="needs a default"):
        grouped(command)
