"""Generate `akpolicy/v1` from `proto/akpolicy/v1`, or check that it is up to date (`--check`).

The code is always generated into an empty directory first; only then are files replaced, and those that no message
file stands behind any more are removed. `--check` changes nothing: it names every file that differs and exits 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "proto"
PACKAGE = Path("akpolicy/v1")
GENERATED_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def main() -> int:
    """Generate or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Generate the Python code of the public messages.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the committed code is stale")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="akpolicy-proto-") as scratch:
        generate(Path(scratch))
        fresh = read_generated(Path(scratch) / PACKAGE)
    committed = read_generated(ROOT / PACKAGE)
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    if not arguments.check:
        for name in stale:
            replace(ROOT / PACKAGE / name, fresh.get(name))
        print(f"{PACKAGE}: {len(stale)} of {len(fresh)} files changed")
        return 0
    for name in stale:
        print(f"{PACKAGE / name}: not what `proto/` generates; run `make proto`", file=sys.stderr)
    return 1 if stale else 0


def generate(target: Path) -> None:
    """Run protoc with the Python, gRPC and typing plugins, writing below `target`."""
    plugins = Path(sys.executable).parent
    sources = sorted(path.relative_to(PROTO_ROOT).as_posix() for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    if not sources:
        sys.exit(f"no message files in {PROTO_ROOT / PACKAGE}")
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={PROTO_ROOT}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        *(f"--{output}_out={target}" for output in ("python", "grpc_python")),
        *(f"--{output}_out=quiet:{target}" for output in ("mypy", "mypy_grpc")),
        *sources,
    ]
    subprocess.run(command, check=True, cwd=ROOT)


def read_generated(directory: Path) -> dict[str, bytes]:
    """Return the generated files of `directory` by name."""
    return {path.name: path.read_bytes() for pattern in GENERATED_PATTERNS for path in directory.glob(pattern)}


def replace(path: Path, content: bytes | None) -> None:
    """Write `content` to `path`; None removes the file."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
