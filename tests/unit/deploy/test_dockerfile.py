"""The Dockerfile, as far as that goes without Docker: pinned, without root, and with nothing that is not there."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[3]
DOCKERFILE: Final = ROOT / "deploy" / "docker" / "Dockerfile"
TARGETS: Final = ("server", "sidecar")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, and under "" those before the first."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            assert base == "${BASE}", line
            found[name] = []
        else:
            found[name].append((instruction, rest))
    return found


def of(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in stages()[stage] if name == instruction]


def test_the_base_image_is_a_version_and_can_be_pinned() -> None:
    [base] = of("", "ARG")

    assert re.fullmatch(r"BASE=python:\d+\.\d+-slim-[a-z]+", base)


def test_every_package_is_pinned_by_hash_or_made_here() -> None:
    installs = [
        command
        for name in stages()
        for rest in of(name, "RUN")
        for command in rest.split("&&")
        if "pip install" in command
    ]

    assert len(installs) == 5
    for command in installs:
        pinned = "--require-hashes" in command and "--only-binary :all:" in command
        assert pinned or ("--no-index" in command and "--no-deps" in command), command


def test_what_is_copied_is_there_and_gets_into_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        source
        for name in stages()
        for rest in of(name, "COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }

    assert {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_its_program_as_nobody_in_particular(target: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    [user] = of(target, "USER")
    [program] = json.loads(of(target, "ENTRYPOINT")[0])

    # A number, so that a cluster can see that it is not root.
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)
    assert all(f"-o {user.partition(':')[0]} " in rest for rest in of(target, "RUN"))
    assert program == f"akpolicy-{target}"
    assert program in scripts


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_neither_sources_nor_the_tools_that_built_it(target: str) -> None:
    assert of(target, "COPY") == [f"--from={target}-packages /opt/akpolicy /opt/akpolicy"]
    assert "pip uninstall" in of(f"{target}-packages", "RUN")[-1]


def test_nothing_is_fetched_by_other_means() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")

    assert not re.search(r"^ADD |curl|wget|apt-get|latest|https?:", text, re.MULTILINE)
