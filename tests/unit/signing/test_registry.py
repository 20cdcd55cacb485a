"""Which scheme leads to which signer: those that come with akpolicy, and those of real installed packages."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import KeyFileError, SignerUnavailable, WeakKey
from akpolicy.signing import create_key_file, create_token_key, known_schemes, looks_like_uri, open_signer
from tests.unit.signing.opening import refusal, signs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Install = Callable[..., None]


CODE = """
from akpolicy.keys import PublicKey
from akpolicy.signing import PrivateKeySigner

opened = []

def open_key(uri):
    opened.append(uri)
    return PrivateKeySigner.generate()

def open_nothing(uri):
    return None

class Weak:
    public_key = PublicKey(b"\\x01" + bytes(31), None)
    def sign(self, message): return bytes(64)
    def close(self): pass

def open_weak(uri):
    return Weak()

class Anonymous(Weak):
    public_key = bytes(32)

def open_anonymous(uri):
    return Anonymous()

class Endless:
    public_key = PrivateKeySigner.generate().public_key
    def sign(self, message): return bytes(64)

def open_endless(uri):
    return Endless()

def break_down(uri):
    raise ZeroDivisionError("a bug")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a package with entry points, as pip would lay it out."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def lay_out(name: str, **entry_points: str) -> None:
        module = f"{name}_signers"
        (tmp_path / f"{module}.py").write_text(CODE, encoding="utf-8")
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{scheme.replace('_', '-')} = {value.format(module)}" for scheme, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("[akpolicy.signers]\n" + "\n".join(lines) + "\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return lay_out


# --- packages ---------------------------------------------------------------------------------------------------------


def test_a_package_adds_a_scheme_and_gets_the_whole_uri(install: Install) -> None:
    install("acme", acme_kms="{}:open_key")
    assert "acme-kms" in known_schemes()
    assert "acme_signers" not in sys.modules
    assert signs(open_signer("acme-kms:alias/key?region=x%20y"))
    assert sys.modules["acme_signers"].opened == ["acme-kms:alias/key?region=x%20y"]


def test_a_package_cannot_replace_what_comes_with_akpolicy(install: Install, tmp_path: Path) -> None:
    install("acme", file="{}:open_key", env="{}:open_key", pkcs11="{}:open_key")
    made = create_key_file(tmp_path / "key.pem")
    assert open_signer(f"file:{tmp_path}/key.pem").public_key == made.public_key
    refusal("env:NOT_SET_ANYWHERE", KeyFileError)
    refusal("pkcs11:token=t")
    assert "acme_signers" not in sys.modules


def test_two_packages_with_one_scheme_are_both_refused(install: Install) -> None:
    install("acme", kms="{}:open_key")
    install("zenith", kms="{}:open_key")
    said = refusal("kms:key")
    assert "`acme 1.0`, `zenith 1.0`" in said
    assert not {"acme_signers", "zenith_signers"} & set(sys.modules)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{}:open_nothing", "`acme 1.0` returned no signer for `kms:`"),
        ("{}:open_anonymous", "returned no signer"),
        ("{}:open_endless", "returned no signer"),
        ("{}:not_there", "cannot load `acme 1.0` for `kms:` signers"),
        ("not_there_either:open_key", "cannot load `acme 1.0` for `kms:` signers"),
    ],
)
def test_a_package_that_gives_no_signer_is_named(install: Install, value: str, reason: str) -> None:
    install("acme", kms=value)
    assert reason in refusal("kms:key")


def test_a_packages_weak_key_is_refused(install: Install) -> None:
    install("acme", kms="{}:open_weak")
    with pytest.raises(WeakKey):
        open_signer("kms:key")


def test_a_packages_bug_shows_as_one(install: Install) -> None:
    install("acme", kms="{}:break_down")
    with pytest.raises(ZeroDivisionError):
        open_signer("kms:key")


# --- schemes ----------------------------------------------------------------------------------------------------------


def test_an_unknown_scheme_is_answered_with_the_known_ones(install: Install) -> None:
    install("acme", kms="{}:open_key")
    assert "known: `env:`, `file:`, `kms:`, `pkcs11:`" in refusal("vault:key")


@pytest.mark.parametrize("text", ["", "key.pem", "/keys/a:b", "./a:b", "FILE:/x", ":x", "1a:x", "MC4CAQAwBQYDK2VwBCI="])
def test_what_is_no_uri_is_not_repeated(text: str) -> None:
    assert not looks_like_uri(text)
    said = refusal(text)
    assert "is named by URI" in said
    assert len(text) < 3 or text not in said


@pytest.mark.parametrize("uri", ["file:/x", "file:x", "a+b-c.d:", "env:NAME"])
def test_what_begins_with_a_scheme_looks_like_a_uri(uri: str) -> None:
    assert looks_like_uri(uri)


def test_keys_are_made_in_tokens_alone() -> None:
    with pytest.raises(SignerUnavailable, match="pkcs11:token="):
        create_token_key("file:/x")


# --- what is imported when --------------------------------------------------------------------------------------------


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_library_for_tokens_is_not_loaded_before_it_is_needed(tmp_path: Path) -> None:
    create_key_file(tmp_path / "key.pem")
    code = f"import sys, akpolicy.signing as s; s.open_signer('file:{tmp_path}/key.pem'); s.known_schemes()\n"
    assert run(code + "print({'pkcs11', 'asn1crypto'} & set(sys.modules))") == "set()\n"


def test_without_the_library_for_tokens_its_extra_is_named() -> None:
    code = """
import sys
sys.modules["pkcs11"] = None
from akpolicy.signing import open_signer
from akpolicy.errors import SignerUnavailable
try:
    open_signer("pkcs11:token=t;object=o?module-path=/x.so")
except SignerUnavailable as error:
    print(error)
"""
    assert "install `akpolicy[pkcs11]`" in run(code)
