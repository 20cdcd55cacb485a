"""Build the package the way a release does, and install it the way a host does.

1. sdist, then the wheel from that sdist alone: whatever the sdist forgets, the wheel lacks.
2. The wheel holds the three packages, their type markers and their data, and nothing else.
3. In an empty environment with the sidecar's locked requirements, the installed programs say their version.
4. That environment has no SQLAlchemy: a host's sidecar does not carry the server's database code.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("akpolicy", "akpolicy_server", "akpolicy_sidecar")
REQUIRED_DATA: Final = (
    "akpolicy/schemas/agentkernel.cedarschema",
    "akpolicy/examples/policies.cedar",
    *(f"{package}/py.typed" for package in PACKAGES),
)
PROGRAMS: Final = ("akpolicy", "akpolicy-sidecar")


def main() -> int:
    """Build, inspect, install, run; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="akpolicy-wheel-") as scratch:
        wheel = build(Path(scratch) / "dist")  # (1)
        problems = inspect(wheel)  # (2)
        python = install(Path(scratch) / "venv", wheel)
        problems += run_programs(python.parent, version=wheel.name.split("-")[1])  # (3)
        problems += check_absent(python, "sqlalchemy")  # (4)
    for problem in problems:
        print(f"check_wheel: {problem}", file=sys.stderr)
    if not problems:
        print(f"check_wheel: {wheel.name} is complete and runs on its own")
    return 1 if problems else 0


def build(target: Path) -> Path:
    """Build sdist and wheel into `target`; return the wheel."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT))
    (wheel,) = target.glob("*.whl")
    return wheel


def inspect(wheel: Path) -> list[str]:
    """Return what is missing from the wheel, and what should not be in it."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [f"the wheel lacks `{name}`" for name in REQUIRED_DATA if name not in names]
    tops = {name.split("/")[0] for name in names}
    stray = sorted(top for top in tops if top not in PACKAGES and not top.endswith(".dist-info"))
    return missing + [f"the wheel holds `{name}`, which is no package of it" for name in stray]


def install(environment: Path, wheel: Path) -> Path:
    """Install the wheel and the sidecar's requirements into an empty environment; return its Python.

    As in the Makefile, uv does it where it is on PATH, else pip.
    """
    python = environment / "bin" / "python"
    uv = shutil.which("uv")
    run(sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), str(environment))
    pip = [uv, "pip"] if uv else [str(python), "-m", "pip", "--disable-pip-version-check"]
    target = ["--python", str(python)] if uv else []
    run(*pip, "install", "--quiet", *target, "--require-hashes", "-r", str(ROOT / "requirements-sidecar.txt"))
    run(*pip, "install", "--quiet", *target, "--no-deps", str(wheel))
    run(*pip, "check", *target)
    return python


def run_programs(bin_directory: Path, *, version: str) -> list[str]:
    """Return one problem for each program that does not say `version`."""
    problems = []
    for program in PROGRAMS:
        command = [str(bin_directory / program), "--version"]
        result = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", timeout=60)
        if result.returncode != 0 or version not in result.stdout:
            output = (result.stdout + result.stderr).strip()
            problems.append(f"`{program} --version` exits {result.returncode} and says: {output}")
    return problems


def check_absent(python: Path, module: str) -> list[str]:
    """Return a problem if `module` can be found by `python`."""
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is not None)"
    found = subprocess.run([str(python), "-I", "-c", probe], check=False, cwd="/").returncode != 0
    return [f"`{module}` came along with the sidecar's requirements"] if found else []


def run(*command: str) -> None:
    """Run a command; a failure ends the check with that command's output."""
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        sys.exit(f"check_wheel: `{' '.join(command)}` failed:\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    sys.exit(main())
