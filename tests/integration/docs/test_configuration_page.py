"""docs/configuration.md says what can be set: all of it, with the true defaults, in files that load."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from akpolicy.cli import build_app
from akpolicy.errors import ConfigError
from akpolicy.settings import _known_keys
from akpolicy_server.settings import ServerSettings
from akpolicy_sidecar.settings import SidecarSettings
from tests.integration.docs.pages import PAGES, ROOT, Block, blocks, column, read
from tests.simulators.certificates import AuthoritySimulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = read("docs/configuration.md")
ANCHOR = "ed25519:gtQ0g3qD7Ty1-8xC4u3dG2uWtiVfGVnlGM7JNtWqEDQ="
ENV = {"AKPOLICY_HOST_KEY": "a-key", "HOME": "/nonexistent"}
PROGRAMS: dict[str, type[ServerSettings | SidecarSettings]] = {"server": ServerSettings, "sidecar": SidecarSettings}
MINIMAL = {
    "server": '[server]\ndata_dir = "data"\n',
    "sidecar": f"""
        [enterprise]
        enabled = true
        policy_server = "http://127.0.0.1:8180"
        org_id = "acme"
        api_key_env = "AKPOLICY_HOST_KEY"
        [enterprise.trust_anchors]
        keys = ["{ANCHOR}"]
        """,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the files that the page's examples name."""
    tls = tmp_path / "tls"
    tls.mkdir()
    identity = AuthoritySimulator(tls, "ca").issue("server")
    for name in ("host.crt", "server.crt", "clients.crt", "hosts.crt", "runtimes.crt", "ca.crt"):
        (tls / name).write_bytes(identity.certificate.read_bytes())
    for name in ("host.key", "server.key"):
        (tls / name).write_bytes(identity.key.read_bytes())
    (tmp_path / "host.key").write_text("a-key\n", encoding="ascii")
    (tmp_path / "host.key").chmod(0o600)
    return tmp_path


def load(directory: Path, program: str, text: str) -> ServerSettings | SidecarSettings:
    file = directory / f"{program}.toml"
    file.write_text(text, encoding="utf-8")
    return PROGRAMS[program].load(file, env=ENV)


def of_program(program: str) -> tuple[Block, list[Block]]:
    """Return the block with all keys of a program, and those that stand `in addition`."""
    found = [block for block in blocks(PAGE, "toml") if block.text.startswith(f"# {program}.toml")]
    assert "in addition" not in found[0].text.splitlines()[0]
    assert all("in addition" in block.text.splitlines()[0] for block in found[1:])
    return found[0], found[1:]


def everything(program: str) -> str:
    """Return all that the page shows of a program's file, with what is commented out put in force."""
    whole, additions = of_program(program)
    text = "\n".join(block.text for block in (whole, *additions))
    return re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)


def without_alternatives(text: str) -> str:
    """Leave out each key that another one, as its comment says, stands `instead of`."""
    for name in re.findall(r"^\w+ = .*# instead of (\w+)", text, flags=re.MULTILINE):
        text, count = re.subn(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
        assert count == 1, f"`{name}` is not shown once"
    return text


def test_every_toml_block_is_one_of_a_program() -> None:
    known = [block for program in PROGRAMS for block in (of_program(program)[0], *of_program(program)[1])]
    assert sorted(block.text for block in blocks(PAGE, "toml")) == sorted(block.text for block in known)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_file_as_shown_loads_and_has_the_defaults(program: str, directory: Path) -> None:
    assert load(directory, program, of_program(program)[0].text) == load(directory, program, MINIMAL[program])


LIMITS = [
    (program, *found.groups())
    for program in PROGRAMS
    for found in re.finditer(r"^((\w+) = \S+) +# (\d+) to (\d+)", of_program(program)[0].text, re.MULTILINE)
]


def test_every_whole_number_with_limits_is_shown_with_them() -> None:
    whole = {
        (program, name)
        for program in PROGRAMS
        for name in re.findall(r"^(\w+) = \d+ ", everything(program), re.MULTILINE)
    }
    assert whole - {(program, name) for program, _, name, *_ in LIMITS} == {("sidecar", "threshold")}


@pytest.mark.parametrize(
    ("program", "line", "name", "lowest", "highest"),
    LIMITS,
    ids=[f"{program}-{name}" for program, _, name, *_ in LIMITS],
)
def test_a_limit_as_shown_is_the_limit(
    program: str, line: str, name: str, lowest: str, highest: str, directory: Path
) -> None:
    text = of_program(program)[0].text
    for number in (int(lowest), int(highest)):
        load(directory, program, text.replace(line, f"{name} = {number}"))
    for number in (int(lowest) - 1, int(highest) + 1):
        with pytest.raises(ConfigError, match=name):
            load(directory, program, text.replace(line, f"{name} = {number}"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_file_with_everything_that_is_shown_loads(program: str, directory: Path) -> None:
    tls = "tls" if program == "server" else "tcp"
    loaded: Any = load(directory, program, without_alternatives(everything(program)))
    assert getattr(getattr(loaded, program), tls).client_ca_file is not None


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_key_is_shown(program: str) -> None:
    shown = tomllib.loads(everything(program))
    for path in _known_keys(PROGRAMS[program]):
        if path[-2:-1] == ("keys",):
            # A key of an inline table, which is shown in a comment.
            assert re.search(rf"# \{{.*\b{path[-1]} = .*\}}", everything(program)), f"`{path[-1]}` is not shown"
            continue
        table: Any = shown
        for name in path:
            assert name in table, f"`{'.'.join(path)}` is not shown"
            table = table[name]


def test_the_readmes_file_loads(directory: Path) -> None:
    [block] = blocks(read("README.md"), "toml")
    loaded = load(directory, "sidecar", block.text.replace("ed25519:...", ANCHOR))
    assert isinstance(loaded, SidecarSettings)
    assert loaded.enterprise.enabled


def test_a_wrong_default_on_the_page_would_be_noticed(directory: Path) -> None:
    text = of_program("sidecar")[0].text.replace("worker_threads = 4", "worker_threads = 5")
    assert load(directory, "sidecar", text) != load(directory, "sidecar", MINIMAL["sidecar"])


# --- environment ------------------------------------------------------------------------------------------------------


def options_variables(command: Any) -> Iterator[str]:
    """Yield the variables that a command's options and those of its subcommands read."""
    for parameter in command.params:
        if isinstance(parameter.envvar, str):
            yield parameter.envvar
    for child in getattr(command, "commands", {}).values():
        yield from options_variables(child)


def documented_variables() -> set[str]:
    return {name for cell in column(PAGE, "Variable") for name in re.findall(r"`(AKPOLICY_\w+)`", cell)}


def test_every_documented_variable_is_read() -> None:
    read_by_options = set(options_variables(typer.main.get_command(build_app())))
    sources = "\n".join(
        file.read_text(encoding="utf-8")
        for package in ("akpolicy", "server", "sidecar")
        for file in (ROOT / package).rglob("*.py")
    )
    read_by_code = set(re.findall(r"env(?:iron)?(?:\.get\(|\[)\"(AKPOLICY_\w+)\"", sources))
    assert documented_variables()
    assert documented_variables() <= read_by_options | read_by_code


def test_every_variable_of_an_option_is_documented() -> None:
    assert set(options_variables(typer.main.get_command(build_app()))) <= documented_variables()


def test_no_page_names_a_variable_that_nobody_reads() -> None:
    # Those of this project's own tests, and the name that examples give to the variable of `api_key_env`.
    others = {"AKPOLICY_HOST_KEY", "AKPOLICY_TEST_REQUIRE_ALL"}
    for page in PAGES:
        named = set(re.findall(r"AKPOLICY_[A-Z_]+", page.read_text(encoding="utf-8")))
        assert named - others <= documented_variables(), page.name
