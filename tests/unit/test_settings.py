"""The loader: every mistake at once, each with its line, and nothing secret in any message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, StrictBool, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from akpolicy.errors import ConfigError
from akpolicy.settings import MAX_CONFIG_BYTES, Mistake, load_settings
from akpolicy.settings_lines import MAX_STATEMENT_LINES, LineIndex
from akpolicy.settings_types import (
    STRICT,
    EnvSecret,
    ExistingFile,
    HostId,
    ListenAddress,
    OctalMode,
    OptionalHttpsUrl,
    OrgName,
    PositiveSeconds,
    TlsFiles,
)

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, config=STRICT)
class Inner:
    name: StrictStr
    count: StrictInt = 1
    on: StrictBool = False


@dataclass(frozen=True, config=STRICT)
class Outer:
    inner: Inner = Field(default_factory=lambda: Inner("x"))
    items: tuple[Inner, ...] = ()
    listen: ListenAddress | None = None
    mode: OctalMode = 0o600
    wait: PositiveSeconds = 1.0
    org: OrgName = "acme"
    host: HostId = "h1"
    secret: EnvSecret | None = None
    file: ExistingFile | None = None
    url: OptionalHttpsUrl = ""
    tls: TlsFiles | None = None

    def mistakes(self) -> list[Mistake]:
        wrong = self.inner.count > 5 and not self.inner.on
        return [Mistake("inner.count", "is too many while off", ("inner.on",))] if wrong else []


def load(tmp_path: Path, text: str | bytes, **env: str) -> Outer:
    path = tmp_path / "some.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(path, Outer, env=env)


def problems_of(tmp_path: Path, text: str | bytes, **env: str) -> list[str]:
    """Return the problems without the directory."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **env)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_every_mistake_is_reported_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = 'org = "-"\nmode = "9"\n\n[inner]\n# no name\ncount = "1"\n\n[nonsense]\n'
    assert problems_of(tmp_path, text) == [
        "some.toml:1: org: must be 1 to 63 of A-Z, a-z, 0-9, `_`, `-`, with a letter or digit at both ends (got `-`)",
        "some.toml:2: mode: must be three octal digits in a string, such as `0660` (got `9`)",
        "some.toml:4: inner.name: is missing",
        "some.toml:6: inner.count: must be a whole number (got `1`)",
        (
            "some.toml:8: nonsense: unknown key; known here: "
            "file, host, inner, items, listen, mode, org, secret, tls, url, wait"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("wait = 0", "must be greater than 0 (got `0`)"),
        ("wait = inf", "must be a finite number (got `inf`)"),
        ("wait = true", "must be a number (got `true`)"),
        ("wait = 1e9", "must be at most 86400 (got `1000000000.0`)"),
        ("mode = 660", 'must be a string such as "0660": TOML has no octal numbers of that form (got `660`)'),
        ("org = 1", "must be a string (got `1`)"),
        ('host = "a/b"', "must be 1 to 128 of A-Z, a-z, 0-9, `.`, `_`, `-` (got `a/b`)"),
        ("inner = 4", "must be a table (got `4`)"),
        ("items = 4", "must be an array (got `4`)"),
        ("listen = 8180", 'must be a string such as "127.0.0.1:8180" (got `8180`)'),
        ('url = "http://example.com/k"', "must be `https://` unless the host is this machine"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected_and_what_was_found(
    tmp_path: Path, text: str, problem: str
) -> None:
    key = text.split(" ", maxsplit=1)[0]
    assert problems_of(tmp_path, "\n" + text) == [f"some.toml:2: {key}: {problem}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[inner]\nname = 'a'\ncuont = 1", "some.toml:3: inner.cuont: unknown key; did you mean `count`?"),
        ("count = 1", "some.toml:1: count: unknown key; did you mean `inner.count`?"),
        ("[iner]", "some.toml:1: iner: unknown key; did you mean `inner`?"),
        ('"a\\nb" = 1', "some.toml:1: a\\nb: unknown key; known here: file, host,"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known_one(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith(expected)


def test_a_rule_between_keys_is_reported_beside_wrong_values(tmp_path: Path) -> None:
    text = 'mode = "9"\n[inner]\nname = "n"\ncount = 6\n'
    assert [problem.split(": ")[1] for problem in problems_of(tmp_path, text)] == ["mode", "inner.count"]


def test_a_rule_between_keys_says_nothing_while_one_of_them_is_wrong(tmp_path: Path) -> None:
    text = '[inner]\nname = "n"\ncount = 6\non = "yes"\n'
    assert [problem.split(": ")[1] for problem in problems_of(tmp_path, text)] == ["inner.on"]


def test_a_rule_between_keys_is_heard_although_another_table_is_incomplete(tmp_path: Path) -> None:
    text = '[inner]\nname = "n"\ncount = 6\n[tls]\ncert_file = "gone"\n'
    assert [problem.split(": ")[1] for problem in problems_of(tmp_path, text)] == [
        "inner.count",
        "tls.key_file",
        "tls.cert_file",
    ]


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*no such file"):
        load_settings(tmp_path / "none.toml", Outer, env={})


def test_a_directory_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load_settings(tmp_path, Outer, env={})


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"larger than {MAX_CONFIG_BYTES} bytes"):
        load(tmp_path, b"#" * (MAX_CONFIG_BYTES + 1))
    assert load(tmp_path, b"#" * MAX_CONFIG_BYTES) == Outer()


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    assert problems_of(tmp_path, b"# fine\n# \xff\n") == ["some.toml:2: not UTF-8 (byte 9)"]


def test_a_syntax_error_is_refused_with_the_line(tmp_path: Path) -> None:
    assert problems_of(tmp_path, 'org = "a"\nhost = \n') == ["some.toml:2: invalid value"]
    (problem,) = problems_of(tmp_path, '\n\norg = """')
    assert problem.startswith("some.toml:3: ")


def test_a_secret_comes_from_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, 'secret = "API_KEY"', API_KEY="hunter2")
    assert settings.secret is not None
    assert settings.secret.reveal() == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


@pytest.mark.parametrize(
    "text",
    ['secret = "hunter2-secret"', 'api_key = "hunter2-secret"', 'url = "https://me:hunter2-secret@example.com"'],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert "hunter2" not in str(caught.value)


def test_an_unset_secret_cannot_be_revealed(tmp_path: Path) -> None:
    secret = load(tmp_path, 'secret = "API_KEY"', API_KEY="").secret
    assert secret is not None
    assert not secret.is_set
    with pytest.raises(RuntimeError, match="`API_KEY` is not set"):
        secret.reveal()


def test_a_relative_path_starts_at_the_directory_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("pem")
    assert load(tmp_path, 'file = "ca.pem"').file == tmp_path / "ca.pem"


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    (absent,) = problems_of(tmp_path, 'file = "gone.pem"')
    assert "`gone.pem` does not exist" in absent
    (directory,) = problems_of(tmp_path, 'file = "."')
    assert "not a file that this user can read" in directory


def test_an_octal_mode_is_read_as_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, 'mode = "0660"').mode == 0o660


def test_a_key_in_the_second_element_of_an_array_of_tables_has_its_own_line(tmp_path: Path) -> None:
    text = '[[items]]\nname = "a"\n[[items]]\nname = "b"\ncount = ""\n'
    assert problems_of(tmp_path, text) == ["some.toml:5: items[1].count: must be a whole number (got ``)"]


def test_lines_are_found_behind_values_over_several_lines() -> None:
    text = '# c\na = [\n  1,\n]\nb = """\n[x]\nc = 1\n"""\nd.e = 2\nf = {g = 3}\n[h."i.j"]\nk = 4\n'
    lines = LineIndex(text)
    expected = {
        ("a",): 2,
        ("a", 0): 2,
        ("b",): 5,
        ("d", "e"): 9,
        ("f", "g"): 10,
        ("h", "i.j"): 11,
        ("h", "i.j", "k"): 12,
    }
    assert {path: lines.find(path) for path in expected} == expected
    assert lines.find(("x",)) == 1
    assert lines.find(("h", "i.j", "absent")) == 11


def test_lines_are_found_in_a_file_with_windows_line_ends(tmp_path: Path) -> None:
    assert problems_of(tmp_path, b'# c\r\n\r\n[inner]\r\nname = "n"\r\ncount = ""\r\n') == [
        "some.toml:5: inner.count: must be a whole number (got ``)"
    ]


def test_a_value_over_very_many_lines_does_not_hide_the_keys_before_it(tmp_path: Path) -> None:
    text = "mode = 1\nitems = [\n" + "#\n" * (2 * MAX_STATEMENT_LINES) + "]\n"
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith("some.toml:1: mode: ")


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), unique=True, min_size=1), st.data())
def test_each_key_of_a_flat_file_is_found_on_its_line(names: list[str], data: st.DataObject) -> None:
    gaps = [data.draw(st.sampled_from(["", "\n", "# note\n", "\n\n"])) for _ in names]
    text = "".join(f"{gap}{name} = 1\n" for gap, name in zip(gaps, names, strict=True))
    lines = LineIndex(text)
    for name in names:
        assert text.split("\n")[lines.find((name,)) - 1] == f"{name} = 1"
