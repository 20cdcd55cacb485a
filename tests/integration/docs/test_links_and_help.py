"""Links lead somewhere, and every command that is shown could be typed."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from akpolicy.cli import build_app
from akpolicy_server.__main__ import app as server_app
from akpolicy_sidecar.__main__ import app as sidecar_app
from tests.integration.docs.pages import PAGES, ROOT, blocks, prose, typed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS: dict[str, Any] = {
    "akpolicy": typer.main.get_command(build_app()),
    "akpolicy-server": typer.main.get_command(server_app),
    "akpolicy-sidecar": typer.main.get_command(sidecar_app),
}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the fragments that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: `{target}`"
        assert ROOT in (linked, *linked.parents), f"{page.name}: `{target}` leads out of the repository"
        if fragment:
            assert fragment in anchors(linked), f"{page.name}: `{target}`"


def test_every_page_below_docs_is_linked() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
    }
    for page in PAGES:
        if ROOT / "docs" in page.parents:
            assert page in linked or page.parent in linked, f"nothing leads to {page.relative_to(ROOT)}"


# --- commands ---------------------------------------------------------------------------------------------------------


def every_command(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child_name, child in getattr(command, "commands", {}).items():
        yield from every_command(f"{name} {child_name}", child)


def examples() -> list[str]:
    """Return the examples that the help of every command shows."""
    found = []
    for program, top in COMMANDS.items():
        for name, command in every_command(program, top):
            text = f"{command.epilog or ''}\n{command.help or ''}"
            lines = re.sub(r"\\\n\s+", "", text).splitlines()
            own = [line.strip() for line in lines if re.match(r"\s+(AKPOLICY_\w+=\S+ )?akpolicy[a-z-]* ", line)]
            if not hasattr(command, "commands") or name == "akpolicy-server":
                assert own, f"the help of `{name}` shows no example"
            found += own
    return found


def documented() -> list[str]:
    """Return the commands in the console blocks of the pages."""
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    found = [line for text in pages for block in blocks(text, "console") for line in typed(block)]
    return [command for command in found if command.startswith("akpolicy")]


def mentioned() -> list[str]:
    """Return the commands that the text of the pages names, as far as they are commands and no options."""
    pages = [prose(page.read_text(encoding="utf-8")) for page in PAGES]
    found = [name for text in pages for name in re.findall(r"`(akpolicy(?:-\w+)?(?: [a-z]+)+)(?: [^`|]*)?`", text)]
    assert "akpolicy policy publish" in found
    return found


def parse(line: str) -> None:
    """Parse a command as its program would, without running it; raise what the program would say."""
    words = shlex.split(re.split(r" [|>] ", line)[0])
    while "=" in words[0]:
        words.pop(0)
    command, name, rest = COMMANDS[words[0]], words[0], words[1:]
    context = command.make_context(name, rest)
    while context._protected_args:
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", sorted({*examples(), *documented()}), ids=ascii)
def test_a_command_that_is_shown_can_be_typed(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    "line",
    ["akpolicy policy publish --bogus", "akpolicy bogus", "akpolicy-sidecar", "akpolicy policy history --limit x"],
)
def test_a_command_that_cannot_be_typed_is_noticed(line: str) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), pytest.raises(Exception, match=r"\w"):
        parse(line)


@pytest.mark.parametrize("line", sorted(set(mentioned())))
def test_a_command_that_the_text_names_exists(line: str) -> None:
    program, *names = line.split()
    command = COMMANDS[program]
    for name in names:
        command = command.commands[name]


def test_every_option_that_the_pages_speak_of_is_one_of_a_command() -> None:
    known = {
        option
        for program, top in COMMANDS.items()
        for _, command in every_command(program, top)
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--version"}
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", prose(page.read_text(encoding="utf-8"))):
            if re.match(r"(akpolicy|--|policy |root |org |keys )", code):
                unknown = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", code)) - known
                assert not unknown, f"{page.name}: `{code}`"
