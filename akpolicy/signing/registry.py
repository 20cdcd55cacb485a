"""From a URI to its signer: the schemes that come with akpolicy, and those of installed packages.

Rules:

- A package adds a scheme with an entry point in the group `akpolicy.signers`: its name is the scheme, its value is a
  function that takes the whole URI and returns a `Signer`.
- What comes with akpolicy cannot be replaced. Two packages that claim the same scheme are both refused.
- A package's signer is looked at before it is used: it must be one, and its public key passes the same checks as any.
  What it raises that is no `SignerError` is a bug of that package, and shows as one.
- A package is imported when a URI of its scheme is opened, and never before.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from akpolicy.errors import SignerUnavailable
from akpolicy.keys import PublicKey
from akpolicy.signing.environment import open_variable
from akpolicy.signing.key_files import open_key_file
from akpolicy.signing.signer import Signer
from akpolicy.signing.uris import split_scheme

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from types import ModuleType

SIGNERS_GROUP: Final = "akpolicy.signers"
BUILT_IN_SCHEMES: Final = ("env", "file", "pkcs11")


def open_signer(uri: str) -> Signer:
    """Return the signer that `uri` names; `close()` it when it is no longer needed.

    Raises:
        SignerUnavailable: a URI that says nothing usable, an unknown scheme, a token or service that cannot be used.
        KeyFileError: a file or a variable that cannot be used.
        WeakKey: a public key that verifies forgeries.

    """
    scheme, rest = split_scheme(uri)
    if scheme == "file":
        return open_key_file(rest)
    if scheme == "env":
        return open_variable(rest)
    if scheme == "pkcs11":
        signer: Signer = _token_keys().open_token_key(uri)
        return signer
    return _open_with_package(scheme, uri)


def create_token_key(uri: str) -> PublicKey:
    """Make a pair inside the token that a `pkcs11:` URI names, and return its public half.

    Raises:
        SignerUnavailable: the URI says nothing usable, the token cannot make the key, or there is one of that name.

    """
    if split_scheme(uri)[0] != "pkcs11":
        raise SignerUnavailable("a key is made in a token, named by `pkcs11:token=<label>;object=<label>?...`")
    public_key: PublicKey = _token_keys().create_token_key(uri)
    return public_key


def known_schemes() -> list[str]:
    """Return the schemes that can be opened, those of installed packages included."""
    return sorted({*BUILT_IN_SCHEMES, *(point.name for point in entry_points(group=SIGNERS_GROUP))})


def _token_keys() -> ModuleType:
    try:
        from akpolicy.signing import pkcs11_keys  # noqa: PLC0415 - its library is an extra
    except ImportError as error:
        raise SignerUnavailable(
            f"`pkcs11:` signers need the package python-pkcs11 ({error}); install `akpolicy[pkcs11]`"
        ) from error
    return pkcs11_keys


def _open_with_package(scheme: str, uri: str) -> Signer:
    points = list(entry_points(group=SIGNERS_GROUP, name=scheme))
    if not points:
        known = ", ".join(f"`{name}:`" for name in known_schemes())
        raise SignerUnavailable(f"`{scheme}:` is not a signer that is installed here; known: {known}")
    if len(points) > 1:
        packages = ", ".join(sorted(_package(point) for point in points))
        raise SignerUnavailable(f"several packages claim `{scheme}:` signers: {packages}; uninstall all but one")
    try:
        opener = points[0].load()
    except (ImportError, AttributeError) as error:
        raise SignerUnavailable(f"cannot load {_package(points[0])} for `{scheme}:` signers: {error}") from error
    return _checked(opener(uri), points[0])


def _checked(signer: Any, point: EntryPoint) -> Signer:  # noqa: ANN401 - whatever the package returned
    if not isinstance(signer, Signer) or not isinstance(signer.public_key, PublicKey):
        raise SignerUnavailable(
            f"{_package(point)} returned no signer for `{point.name}:`; a bug in it: "
            "a signer has `public_key` (a `PublicKey`), `sign` and `close`"
        )
    # A key that was not made by `from_bytes` has passed no check.
    PublicKey.from_bytes(signer.public_key.raw)
    return signer


def _package(point: EntryPoint) -> str:
    return f"`{point.dist.name} {point.dist.version}`" if point.dist is not None else f"`{point.value}`"
