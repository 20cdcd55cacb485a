"""The list of survivors, and what a run amounts to."""

from __future__ import annotations

import tomllib

import pytest

from tools.mutation.__main__ import LIST
from tools.mutation.mutants import Change, Mutant
from tools.mutation.score import Score, judge, report, table
from tools.mutation.selection import CONTROL, Coverage, control, jobs
from tools.mutation.survivors import Entry, ListInvalid, as_entry, parse_list, read_list, stale

ONE = Change("m.one", "f", "return a > b", "return a >= b")
TWO = Change("m.one", "C.g", "raise X(msg)", "raise X(None)", 2)
THREE = Change("m.two", "h", "x,", "")


def mutant(change: Change, *lines: int) -> Mutant:
    return Mutant(f"{change.module}.{change.function}#{change.occurrence}", "m.py", change, range(*lines or (1, 2)))


MUTANTS = [mutant(change) for change in (ONE, TWO, THREE)]


def score_of(statuses: dict[Change, str], listed: tuple[Change, ...] = (), *, ran: int = 3) -> Score:
    names = {mutant(change).name: status for change, status in statuses.items()}
    return judge(MUTANTS[:ran], MUTANTS, names, listed)


ALL_KILLED = {ONE: "killed", TWO: "timeout", THREE: "crashed"}


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        ONE,
        TWO,
        Change("m", "f", "a = \"x\" + 'y'", "a = None"),
        Change("m", "f", "a(\nb,\nc,", "a(\nb,"),
        Change("m", "f", r'b"\x00" in text', r"'\\'"),
        Change("m", "f", "'''", "x'"),
    ],
    ids=["plain", "a second occurrence", "both quotation marks", "several lines", "backslashes", "three of them"],
)
def test_what_is_printed_can_be_pasted_in_once_it_has_a_reason(change: Change) -> None:
    text = as_entry(change)
    with pytest.raises(ListInvalid, match="has no reason"):
        parse_list(tomllib.loads(text))
    text = text.replace('reason = ""', 'reason = "there is one"')
    assert parse_list(tomllib.loads(text)) == {change: Entry(change, "there is one")}


def test_an_entry_that_is_there_twice_is_refused() -> None:
    text = as_entry(ONE).replace('reason = ""', 'reason = "r"')
    with pytest.raises(ListInvalid, match="is there twice"):
        parse_list(tomllib.loads(f"{text}\n{text}"))


def test_an_entry_that_lacks_a_field_is_refused() -> None:
    with pytest.raises(ListInvalid, match="entry 1 has no 'added'"):
        parse_list({"survivor": [{"module": "m", "function": "f", "removed": "x", "reason": "r"}]})


def test_the_committed_list_can_be_read() -> None:
    assert all(entry.reason for entry in read_list(LIST).values())


def test_an_entry_is_stale_without_its_mutant_and_when_that_is_killed() -> None:
    assert stale([ONE, TWO, THREE], existing=[ONE, TWO], killed=[TWO]) == [TWO, THREE]


# --- the score --------------------------------------------------------------------------------------------------------


def test_everything_killed_passes() -> None:
    score = score_of(ALL_KILLED)
    assert (score.killed, score.passed) == (1.0, True)
    assert report(score).endswith("passed: 100.0% of 3 mutants killed, 1 by crashed, 1 by timeout")


def test_a_survivor_that_is_not_listed_fails_and_is_printed_as_an_entry() -> None:
    score = score_of({**ALL_KILLED, TWO: "survived"})
    assert (score.unlisted, score.passed) == ([TWO], False)
    assert as_entry(TWO) in report(score)


def test_a_mutant_without_a_test_has_survived() -> None:
    score = score_of({ONE: "killed", TWO: "killed"})
    assert score.unlisted == [THREE]


def test_a_listed_survivor_passes_and_still_counts_against_the_score() -> None:
    changes = [Change("m", "f", str(number), "") for number in range(10)]
    mutants = [mutant(change) for change in changes]
    names = {m.name: "killed" for m in mutants}
    few = Mutant("alive", "m.py", Change("m", "g", "", ""), range(1))
    score = judge([*mutants, few], [*mutants, few], {**names, "alive": "survived"}, [few.change])
    assert score.passed
    assert score.killed == pytest.approx(10 / 11)
    score = judge([mutants[0], few], [*mutants, few], {**names, "alive": "survived"}, [few.change])
    assert (score.unlisted, score.killed, score.passed) == ([], 0.5, False)


def test_a_stale_entry_fails_whichever_mutants_ran() -> None:
    gone = Change("m.gone", "f", "", "")
    score = score_of(ALL_KILLED, (gone,), ran=1)
    assert (score.stale, score.passed) == ([gone], False)
    score = score_of(ALL_KILLED, (ONE, THREE), ran=1)
    assert (score.stale, score.passed) == ([ONE], False)
    assert as_entry(ONE) in report(score)


def test_the_table_has_one_line_a_module_and_one_for_all() -> None:
    lines = table(score_of({**ALL_KILLED, ONE: "survived", THREE: "survived"}, (ONE,))).split("\n")
    assert [line.split() for line in lines] == [
        ["file", "mutants", "killed", "listed", "unlisted", "score"],
        ["m.one", "2", "1", "1", "0", "50.0%"],
        ["m.two", "1", "0", "0", "1", "0.0%"],
        ["all", "3", "1", "1", "1", "33.3%"],
    ]


# --- which tests ------------------------------------------------------------------------------------------------------

COVERAGE = Coverage.parse(
    {"tests": ["wide", "narrow", "other"], "lines": {"m.py": {"4": [0, 1], "5": [0], "9": [2]}}, "seconds": [4, 2, 1]}
)


def test_a_mutant_gets_the_tests_of_its_lines_and_the_narrowest_first() -> None:
    assert jobs([mutant(ONE, 4, 6)], COVERAGE) == [{"name": mutant(ONE).name, "tests": [1, 0], "seconds": 6}]


def test_a_mutant_that_no_test_runs_is_no_job() -> None:
    assert jobs([mutant(ONE, 6, 9)], COVERAGE) == []


def test_the_control_runs_every_test_without_a_mutant() -> None:
    assert control(COVERAGE) == {"name": CONTROL, "tests": [0, 1, 2], "seconds": 7}
