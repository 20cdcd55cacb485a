"""Options that belong together, written once.

A command takes a group as one parameter:

    @app.command()
    @grouped
    def history(*, connection: Connection, output: OutputOption = "text") -> None: ...

`grouped` puts the group's fields, each annotated with its `typer.Option`, in the parameter's place, so that help and
parsing see them one by one, and hands the command the group that they make.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import get_type_hints


@dataclass(frozen=True)
class OptionGroup:
    """Base of the groups: frozen dataclasses whose fields all have a default."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of its groups as its own options."""
    signature = inspect.signature(command, eval_str=True)
    groups = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, OptionGroup)
    }

    @functools.wraps(command)
    def run(**values: object) -> None:
        made = {
            name: group(**{entry.name: values.pop(entry.name) for entry in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **made)

    flat = [
        option
        for parameter in signature.parameters.values()
        for option in (_options(groups[parameter.name]) if parameter.name in groups else [parameter])
    ]
    # By keyword only: that is how typer calls, and then an option without a default may follow one that has one.
    keywords = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in flat]
    run.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
    return run


def _options(group: type[OptionGroup]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for entry in fields(group):
        yield inspect.Parameter(
            entry.name, inspect.Parameter.KEYWORD_ONLY, default=_default(entry), annotation=hints[entry.name]
        )


def _default(entry: Field[object]) -> object:
    if entry.default is MISSING:
        raise TypeError(f"the option `{entry.name}` of a group needs a default")
    return entry.default
