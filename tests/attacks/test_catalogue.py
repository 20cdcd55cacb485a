"""Every attack of the acceptance list is carried out by a test, with the error that the list says."""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path

from tests.attacks.catalogue import CATALOGUE
from tests.attacks.stage import REGISTER


def test_every_number_is_a_test_with_its_error() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.attacks.{path.stem}")
    found: defaultdict[int, set[str]] = defaultdict(set)
    for attack in REGISTER.attacks:
        found[attack.number].add(attack.error.__name__ if attack.error else "")
    assert sorted(CATALOGUE) == list(range(1, 155))
    assert {number: found[number] for number in CATALOGUE} == {number: {name} for number, name in CATALOGUE.items()}
    assert set(found) == set(CATALOGUE)
