"""The working copy in which mutants run, and the mutants in it.

Rules:

- `build/mutation` is made anew for each run: the packages side by side (so that a file's path names its module), the
  tests, and the runner. What runs there imports that copy and never the tree that is installed in place.
- mutmut makes the mutants. It leaves decorated functions alone, so the copy has every decorator written as the call
  that it stands for (`name = property(name)`): properties and the validators of documents are mutated like the rest.
- Not mutated: what a module does when it is imported (constants, patterns, annotated fields, class bodies), calls of
  `len` and `isinstance`, f-strings, and the wording of messages (`WORDING`). Codes, field names, file names, media
  types and domain separators are code, and are mutated.
"""

from __future__ import annotations

import ast
import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.mutation.mutants import mutants_of

if TYPE_CHECKING:
    from tools.mutation.mutants import Mutant

ROOT: Final = Path(__file__).resolve().parents[2]
WORKPLACE: Final = ROOT / "build" / "mutation"
RUNNER: Final = "runner.py"

# Where they are in the tree, and where in the copy.
COPIED: Final = {
    "akpolicy": "akpolicy",
    "sidecar/akpolicy_sidecar": "akpolicy_sidecar",
    "tests": "tests",
    "tools/mutation/runner.py": RUNNER,
}

# What decides about trust, and what keeps that on disk.
MUTATED: Final = (
    "akpolicy/trust/*.py",
    *(f"akpolicy/{name}.py" for name in ("bundle", "envelope", "keys", "root", "rollback", "heartbeat", "index")),
    *(f"akpolicy/{name}.py" for name in ("fields", "strict_json", "scope", "trusted_time", "durable")),
    *(f"akpolicy_sidecar/{name}.py" for name in ("state", "cache", "journal", "current", "named_files", "ledger")),
    *(f"akpolicy_sidecar/{name}.py" for name in ("loading", "freshness", "vouching", "offline")),
    *(f"akpolicy_sidecar/{name}.py" for name in ("updater", "updates", "root_updates", "bundle_updates")),
    *(f"akpolicy_sidecar/{name}.py" for name in ("heartbeat_updates", "layers", "outstanding")),
)

# Lines whose strings are the wording of a message: no test should pin it.
WORDING: Final = (r'^\s*msg = "', r'^\s*"[^"]*"$')

_SETTINGS: Final = """\
[tool.mutmut]
source_paths = ["akpolicy", "akpolicy_sidecar"]
do_not_mutate_patterns = [{wording}]

[tool.pytest.ini_options]
pythonpath = ["."]
addopts = ["--import-mode=importlib", "--strict-markers"]
filterwarnings = ["error"]
markers = ["slow", "needs_program(name)"]
"""
_UNDERSTOOD: Final = ({"classmethod"}, {"staticmethod"})


def assemble() -> list[Mutant]:
    """Make the working copy, mutate it and return every mutant in it."""
    shutil.rmtree(WORKPLACE, ignore_errors=True)
    for source, target in COPIED.items():
        _copy(ROOT / source, WORKPLACE / target)
    wording = ", ".join(f"'{pattern}'" for pattern in WORDING)
    (WORKPLACE / "pyproject.toml").write_text(_SETTINGS.format(wording=wording), encoding="utf-8")
    mutants: list[Mutant] = []
    # mutmut reads its settings from the current directory, once.
    with contextlib.chdir(WORKPLACE):
        for path in sorted(path for pattern in MUTATED for path in Path().glob(pattern)):
            mutants += _mutate(path)
    return mutants


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _mutate(path: Path) -> list[Mutant]:
    from mutmut.mutation.file_mutation import mutate_file_contents  # noqa: PLC0415 - it looks for its settings here

    mutated = mutate_file_contents(str(path), undecorated(path.read_text(encoding="utf-8")))
    path.write_text(mutated.code, encoding="utf-8")
    return mutants_of(path, mutated)


def undecorated(source: str) -> str:
    """Return `source` with decorators of functions written as calls behind them, which is what they mean."""
    lines = source.split("\n")
    for function in sorted(_decorated(ast.parse(source).body), key=lambda f: f.lineno, reverse=True):
        call = function.name
        for decorator in reversed(function.decorator_list):
            call = f"{ast.unparse(decorator)}({call})"
        lines.insert(function.end_lineno or 0, f"{' ' * function.col_offset}{function.name} = {call}")
        del lines[function.decorator_list[0].lineno - 1 : function.lineno - 1]
    return "\n".join(lines)


def _decorated(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    found = []
    for node in body:
        if isinstance(node, ast.ClassDef):
            found += _decorated(node.body)
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            names = {ast.unparse(decorator) for decorator in node.decorator_list}
            if names not in _UNDERSTOOD:
                found.append(node)
    return found
