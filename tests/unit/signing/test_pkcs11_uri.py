"""`pkcs11:` URIs: what they name, and what is refused before any library is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from akpolicy.errors import SignerUnavailable
from akpolicy.signing.pkcs11_uri import MAX_ID_BYTES, Pkcs11Uri
from akpolicy.signing.secret_sources import SecretSource
from tests.unit.trust.scene import check_message

MODULE = "module-path=/usr/lib/hsm.so"


def test_every_attribute_is_read_and_decoded() -> None:
    uri = Pkcs11Uri.parse(
        "pkcs11:token=My%20token%3b;serial=0%41;object=b%C3%BCndel;id=%00%fFz"
        "?module-path=/usr/lib/a%26b.so&pin-source=file:/run/a%3Fb"
    )
    assert uri == Pkcs11Uri(
        module=Path("/usr/lib/a&b.so"),
        token="My token;",
        serial="0A",
        label="bündel",
        key_id=b"\x00\xffz",
        pin_source=SecretSource("file", "/run/a?b"),
    )
    assert uri.token_name == "`My token;`"
    assert uri.key_name == "`object=bündel;id=%00%FF%7A`"


def test_what_may_be_left_out_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKCS11_MODULE", "/usr/lib/hsm.so")
    uri = Pkcs11Uri.parse("pkcs11:serial=01;id=%01")
    assert (uri.token, uri.label, uri.pin_source) == (None, None, None)
    assert uri.module == Path("/usr/lib/hsm.so")
    assert uri.token_name == "`01`"


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("env:HSM_PIN", SecretSource("env", "HSM_PIN")),
        ("file:/run/pin", SecretSource("file", "/run/pin")),
        ("file:///run/pin", SecretSource("file", "/run/pin")),
        ("file:pin", SecretSource("file", "pin")),
    ],
)
def test_a_pin_is_in_a_variable_or_in_a_file(source: str, read: SecretSource) -> None:
    assert Pkcs11Uri.parse(f"pkcs11:token=t;object=o?{MODULE}&pin-source={source}").pin_source == read


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (f"?{MODULE}", "names a token"),
        (f"object=o?{MODULE}", "names a token"),
        (f"token=t?{MODULE}", "names a key"),
        (f"token=t;object=o;type=private?{MODULE}", "allowed: `token=`, `serial=`, `object=`, `id=`"),
        (f"token=t;object=o;token=u?{MODULE}", "stands twice"),
        (f"token=t;object=?{MODULE}", "`object` in a signer's URI has no value"),
        (f"token=t;object=50%?{MODULE}", "`object` has a `%`"),
        (f"token=t;object=%FF?{MODULE}", "`object` is not UTF-8"),
        (f"token=%00;object=o?{MODULE}", "`token` has a NUL byte"),
        (f"token=t;id=%0?{MODULE}", "`id` has a `%`"),
        (f"token=t;id={'a' * (MAX_ID_BYTES + 1)}?{MODULE}", "more than 64"),
        ("token=t;object=o", "no PKCS#11 library is named"),
        ("token=t;object=o?module-path=hsm.so", "absolute path"),
        ("token=t;object=o?module-path=../hsm.so", "absolute path"),
        (f"token=t;object=o?{MODULE}&module-name=hsm", "not known here"),
    ],
)
def test_a_uri_that_says_nothing_usable_is_refused(rest: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PKCS11_MODULE", raising=False)
    with pytest.raises(SignerUnavailable) as caught:
        Pkcs11Uri.parse(f"pkcs11:{rest}")
    check_message(caught.value)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    "query",
    ["pin-value=97531", "pin-source=97531", "pin-source=file:", "pin-source=|cat 97531", "pin-source=env:97531"],
)
def test_a_pin_in_a_uri_is_refused_and_not_repeated(query: str) -> None:
    with pytest.raises(SignerUnavailable) as caught:
        Pkcs11Uri.parse(f"pkcs11:token=t;object=o?{MODULE}&{query}")
    check_message(caught.value)
    assert "97531" not in caught.value.message
    assert "write" in caught.value.message or "belongs here" in caught.value.message
