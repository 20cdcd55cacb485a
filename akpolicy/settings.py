"""Settings: strict TOML into frozen dataclasses.

Rules:

- A file is refused as a whole, and every mistake in it is named at once: file, line, key, what is expected, what was
  found. One start of the program is enough to mend a file.
- Nothing is guessed: an unknown key is a mistake (the nearest known one is offered), and so is `"4"` for `4`.
- What lies between keys ("this needs that") is the model's to say: it may have a method `mistakes()`. When single
  values are wrong, it is asked about the rest all the same, with the wrong values left out; it is not heard on those.
- No value that may be secret is ever repeated in a message: not that of an unknown key, and none whose check raises
  `SecretValueError`.
"""

from __future__ import annotations

import copy
import difflib
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, get_args, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from akpolicy.addresses import SecretValueError
from akpolicy.errors import ConfigError
from akpolicy.limits import KIB
from akpolicy.settings_lines import LineIndex
from akpolicy.settings_types import LoadContext

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MAX_CONFIG_BYTES: Final = 64 * KIB
MAX_SHOWN_CHARS: Final = 80

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

_EXPECTED: Final = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be `true` or `false`",
    "tuple_type": "must be an array",
    "dataclass_type": "must be a table",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_long": "must have at most {max_length} elements",
    "string_too_long": "must have at most {max_length} characters",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake that lies between keys: where to show it, what to do, and the keys (dotted) that it also rests on."""

    key: str
    message: str
    depends: tuple[str, ...] = ()


@runtime_checkable
class CrossChecked(Protocol):
    """A model with rules between its keys."""

    def mistakes(self) -> Iterable[Mistake]:
        """Return what is wrong although each value is right by itself."""


def load_settings(path: Path, model: type[T], *, env: Mapping[str, str]) -> T:
    """Read the file at `path` as `model`, a pydantic dataclass; relative paths in it start at its directory.

    Raises `ConfigError` with one problem a mistake.
    """
    text = _read(path)
    document = _parse(path, text)
    adapter = TypeAdapter(model)
    context = LoadContext(base_dir=path.absolute().parent, env=env)
    value: T | None
    problems: dict[KeyPath, str] = {}
    try:
        value = adapter.validate_python(document, context=context)
    except ValidationError as error:
        problems = _describe_all(error, model)
        value = _validate_rest(adapter, document, problems, context)
    if isinstance(value, CrossChecked):
        for mistake in value.mistakes():
            if not any(_touches(key, name) for key in problems for name in (mistake.key, *mistake.depends)):
                problems.setdefault(tuple(mistake.key.split(".")), mistake.message)
    if problems or value is None:
        raise _config_error(path, text, problems)
    return value


# --- the file ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        msg = f"cannot read the configuration `{path}`: {(error.strerror or str(error)).lower()}"
        raise ConfigError(msg) from error
    if len(content) > MAX_CONFIG_BYTES:
        msg = f"the configuration `{path}` is larger than {MAX_CONFIG_BYTES} bytes; is it the right file?"
        raise ConfigError(msg)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        msg = f"the configuration `{path}` is not UTF-8"
        raise ConfigError(msg, (f"{path}:{line}: not UTF-8 (byte {error.start})",)) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$| \(at end of document\)$", str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        what = re.sub(r" \(at [^)]*\)$", "", str(error))
        msg = f"the configuration `{path}` is not valid TOML"
        raise ConfigError(msg, (f"{path}:{line}: {what[:1].lower()}{what[1:]}",)) from None


def _config_error(path: Path, text: str, problems: Mapping[KeyPath, str]) -> ConfigError:
    lines = LineIndex(text)
    located = sorted((lines.find(key), _dotted(key), message) for key, message in problems.items())
    count = "1 mistake" if len(located) == 1 else f"{len(located)} mistakes"
    shown = tuple(f"{path}:{line}: {key}: {message}" for line, key, message in located)
    return ConfigError(f"the configuration `{path}` has {count}", shown)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def _validate_rest(
    adapter: TypeAdapter[T], document: dict[str, Any], problems: Mapping[KeyPath, str], context: LoadContext
) -> T | None:
    """Return the model without the values that are wrong by themselves; None if it cannot be without them.

    A table that is incomplete without a wrong value is left out as well.
    """
    rest = copy.deepcopy(document)
    removed: list[KeyPath] = list(problems)
    while removed and () not in removed:
        for key in removed:
            _remove(rest, key)
        try:
            return adapter.validate_python(rest, context=context)
        except ValidationError as error:
            removed = [detail["loc"][:-1] for detail in error.errors(include_url=False)]
    return None


def _touches(problem: KeyPath, name: str) -> bool:
    """Whether a wrong value at `problem` is, holds or is a part of what `name` (dotted) means."""
    names = _names(problem)
    other = tuple(name.split("."))
    return names[: len(other)] == other or other[: len(names)] == names


def _remove(document: dict[str, Any], key: KeyPath) -> None:
    """Remove `key`, or the array that it is an element of."""
    table: Any = document
    for depth, name in enumerate(key):
        if not isinstance(table, dict) or name not in table:
            return
        if depth == len(key) - 1 or not isinstance(table[name], dict):
            del table[name]
            return
        table = table[name]


def _describe_all(error: ValidationError, model: type[Any]) -> dict[KeyPath, str]:
    return {
        detail["loc"]: _describe(detail["type"], detail["loc"], detail["input"], detail.get("ctx", {}), model)
        for detail in error.errors(include_url=False)
    }


def _describe(kind: str, key: KeyPath, value: object, context: dict[str, Any], model: type[Any]) -> str:
    """Say what is wrong with one value; the kinds are pydantic's error types."""
    if kind == "unexpected_keyword_argument":
        return _describe_unknown(key, model)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        reason = context["error"]
        return str(reason) if isinstance(reason, SecretValueError) else f"{reason}{_shown(value)}"
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(chr(39), '`')}{_shown(value)}"
    return _EXPECTED[kind].format(**context) + _shown(value) if kind in _EXPECTED else f"is not valid ({kind})"


def _shown(value: object) -> str:
    """Return ` (got ...)` for what a line can hold."""
    if isinstance(value, bool):
        return f" (got `{str(value).lower()}`)"
    if not isinstance(value, str | int | float):
        return ""
    text = str(value)
    return f" (got `{_printable(text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + '…')}`)"


def _printable(text: str) -> str:
    """Keep a message on its line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _describe_unknown(key: KeyPath, model: type[Any]) -> str:
    """Name the known key that was probably meant: the same name in another table, or a near one in this."""
    name = str(key[-1])
    known = _known_keys(model)
    siblings = [path[-1] for path in known if path[:-1] == _names(key)[:-1]]
    elsewhere = [".".join(path) for path in known if path[-1] == name]
    if elsewhere:
        return f"unknown key; did you mean `{elsewhere[0]}`?"
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return f"unknown key; did you mean `{near[0]}`?"
    return f"unknown key; known here: {', '.join(sorted(siblings))}"


def _known_keys(model: type[Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every key and table that `model` knows."""
    found = []
    for name, field in model.__pydantic_fields__.items():
        found.append((*prefix, name))
        for table in _tables(field.annotation):
            found.extend(_known_keys(table, (*prefix, name)))
    return found


def _tables(annotation: object) -> Iterator[type[Any]]:
    """Yield the dataclasses within an annotation such as `TlsFiles | None` or `tuple[AnchorEntry, ...]`."""
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__"):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables(argument)


def _names(key: KeyPath) -> tuple[str, ...]:
    return tuple(part for part in key if isinstance(part, str))


def _dotted(key: KeyPath) -> str:
    """Return `a.b[0].c` for a path."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return _printable(text)
