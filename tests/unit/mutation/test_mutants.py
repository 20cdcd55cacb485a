"""By what mutants are known, and what of the code they are made of."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REQUIRE_ALL
from tools.mutation.mutants import (
    Change,
    Mutant,
    difference,
    drawn,
    function_name,
    mutants_of,
    same_codec,
    statement_around,
)
from tools.mutation.workplace import WORDING, undecorated

if TYPE_CHECKING:
    from mutmut.mutation.file_mutation import MutatedFile

SOURCE = """
class Box:
    @property
    def size(self) -> int:
        return self.width + 1

    def fill(self, what: str) -> None:
        if not what:
            msg = "nothing to fill it with"
            raise ValueError(msg)
        if what == "ice":
            msg = "it melts"
            raise ValueError(msg)


def full(box: Box) -> bool:
    return box.size > 3
"""


@pytest.fixture(scope="module")
def mutated(tmp_path_factory: pytest.TempPathFactory) -> MutatedFile:
    if os.environ.get(REQUIRE_ALL) != "1":
        pytest.importorskip("mutmut", reason="needs mutmut, which `make check` installs")
    place = tmp_path_factory.mktemp("place")
    wording = ", ".join(f"'{pattern}'" for pattern in WORDING)
    (place / "pyproject.toml").write_text(
        f'[tool.mutmut]\nsource_paths = ["."]\ndo_not_mutate_patterns = [{wording}]\n', encoding="utf-8"
    )
    with contextlib.chdir(place):
        from mutmut import configuration  # noqa: PLC0415
        from mutmut.mutation.file_mutation import mutate_file_contents  # noqa: PLC0415

        configuration.reset_config()
        return mutate_file_contents("box.py", undecorated(SOURCE))


@pytest.fixture(scope="module")
def mutants(mutated: MutatedFile) -> list[Mutant]:
    return mutants_of(Path("shop/box.py"), mutated)


def test_a_mutant_is_known_by_its_change_and_not_by_its_number(mutants: list[Mutant]) -> None:
    assert Change("shop.box", "full", "return box.size > 3", "return box.size >= 3") in [m.change for m in mutants]
    assert len({mutant.change for mutant in mutants}) == len(mutants)


def test_the_name_is_the_one_that_switches_the_mutant_on(mutants: list[Mutant], mutated: MutatedFile) -> None:
    assert [mutant.name.removeprefix("shop.box.") for mutant in mutants] == list(mutated.mutant_names)


def test_the_same_change_at_two_places_is_counted(mutants: list[Mutant]) -> None:
    same = [m.change.occurrence for m in mutants if m.change.added == "raise ValueError(None)"]
    assert same == [1, 2]


def test_decorated_functions_are_mutated_too(mutants: list[Mutant]) -> None:
    assert "return self.width - 1" in [m.change.added for m in mutants if m.change.function == "Box.size"]


def test_the_wording_of_messages_is_not_mutated(mutants: list[Mutant]) -> None:
    assert not any("melts" in mutant.change.removed for mutant in mutants)
    assert any('"ice"' in mutant.change.removed for mutant in mutants)


def test_the_lines_of_a_mutant_are_those_of_its_statement_in_the_mutated_file(
    mutants: list[Mutant], mutated: MutatedFile
) -> None:
    lines = mutated.code.split("\n")
    for mutant in mutants:
        statement = "\n".join(lines[number - 1].strip() for number in mutant.lines)
        assert mutant.change.removed in statement, mutant


@pytest.mark.parametrize(
    ("mangled", "name"), [("x_full", "full"), ("x__take_lock", "_take_lock"), ("xǁBoxǁ_fill", "Box._fill")]
)
def test_a_function_has_the_name_of_the_source(mangled: str, name: str) -> None:
    assert function_name(mangled) == name


@pytest.mark.parametrize(
    ("original", "mutant", "expected"),
    [
        (["a", "  b", "c"], ["a", "  x", "c"], ("b", "x", 1)),
        (["a", " b", " b", "c"], ["a", " b", "c"], ("b", "", 2)),
        (["a"], ["b"], ("a", "b", 0)),
        (["a", "b", "c", "d"], ["a", "d"], ("b\nc", "", 1)),
    ],
    ids=["a line", "one of two equal lines", "all", "several lines"],
)
def test_a_difference_is_the_lines_that_go_and_the_lines_that_come(
    original: list[str], mutant: list[str], expected: tuple[str, str, int]
) -> None:
    assert difference(original, mutant) == expected


FUNCTION = dedent("""\
    def f(x=1,
          y=2):
        if x > (
            y
        ):
            z = g(
                x,
            )
        else:
            z = 2
        try:
            return z
        except ValueError:
            raise
    """).split("\n")


@pytest.mark.parametrize(
    ("at", "lines"),
    [(1, range(14)), (3, range(2, 5)), (6, range(5, 8)), (9, range(9, 10)), (11, range(11, 12)), (12, range(10, 14))],
    ids=["a default", "a condition", "inside a call", "an else branch", "a try body", "an except clause"],
)
def test_a_changed_line_belongs_to_the_innermost_statement_around_it(at: int, lines: range) -> None:
    assert statement_around(FUNCTION, at) == lines


def test_decorators_become_the_calls_that_they_mean() -> None:
    source = dedent("""\
        class A:
            @field_validator("x", mode="after")
            @classmethod
            def check(cls, x: int) -> int:
                return x

            @classmethod
            def make(cls) -> None: ...
        """)
    assert undecorated(source) == dedent("""\
        class A:
            def check(cls, x: int) -> int:
                return x
            check = field_validator('x', mode='after')(classmethod(check))

            @classmethod
            def make(cls) -> None: ...
        """)


# --- samples ----------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_for_the_same_seed_in_whatever_order_the_mutants_come(mutants: list[Mutant]) -> None:
    first = drawn(mutants, 5, "a")
    assert len(first) == len({m.name for m in first}) == 5
    assert drawn(list(reversed(mutants)), 5, "a") == first
    assert any(drawn(mutants, 5, seed) != first for seed in "bcd")


def test_a_sample_that_is_too_large_is_everything(mutants: list[Mutant]) -> None:
    assert {m.name for m in drawn(mutants, 10_000, "a")} == {m.name for m in mutants}


def test_another_spelling_of_a_codec_is_no_change() -> None:
    assert same_codec('text.encode("ascii")', 'text.encode("ASCII")')
    assert same_codec("data.decode('utf-8')", "data.decode('UTF-8')")
    assert not same_codec('text.encode("ascii")', "text.encode()")
    assert not same_codec('{"scope": text}', '{"SCOPE": text}')
