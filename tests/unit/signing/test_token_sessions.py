"""Sessions with a real token (SoftHSM): logins, losses, and several users at once."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

import pytest
from pkcs11 import Mechanism
from pkcs11.exceptions import PKCS11Error, SessionHandleInvalid

from akpolicy.errors import SignerUnavailable, SigningFailed
from akpolicy.signing import create_token_key, open_signer, pkcs11_keys, pkcs11_token
from akpolicy.signing.pkcs11_token import Connection
from akpolicy.signing.pkcs11_uri import Pkcs11Uri
from tests.simulators.tokens import LABEL, PIN, generate, library
from tests.unit.signing.opening import MESSAGE, refusal, signs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pkcs11

    from akpolicy.signing import Signer
    from tests.simulators.tokens import SoftTokens

pytestmark = pytest.mark.needs_program("softhsm2-util")


@pytest.fixture
def signer(tokens: SoftTokens) -> Iterator[Signer]:
    create_token_key(tokens.uri())
    with closing(open_signer(tokens.uri())) as opened:
        yield opened


# --- logging in -------------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_said_and_not_shown(tokens: SoftTokens) -> None:
    tokens.make_pair()
    tokens.write_pin("wrong-9753")
    said = refusal(tokens.uri())
    assert "refuses the PIN in the file" in said
    assert "PinIncorrect" in said
    assert "9753" not in said


def test_a_refused_pin_is_not_tried_again_but_another_one_is(tokens: SoftTokens) -> None:
    tokens.make_pair()
    tokens.write_pin("wrong-9753")
    refusal(tokens.uri())
    assert "refused this PIN before" in refusal(tokens.uri())
    # The same PIN from another place is the same attempt.
    other = tokens.pin_file.with_name("other")
    shutil.copy(tokens.pin_file, other)
    assert "refused this PIN before" in refusal(tokens.uri(pin=f"file:{other}"))
    tokens.write_pin(PIN)
    with closing(open_signer(tokens.uri())) as signer:
        assert signs(signer)


def test_a_pin_can_come_from_a_variable(tokens: SoftTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.make_pair()
    monkeypatch.setenv("HSM_PIN", PIN)
    with closing(open_signer(tokens.uri(pin="env:HSM_PIN"))) as signer:
        assert signs(signer)
    monkeypatch.delenv("HSM_PIN")
    assert "the variable `HSM_PIN` is not set" in refusal(tokens.uri(pin="env:HSM_PIN"))


def test_a_pin_that_cannot_be_read_is_said(tokens: SoftTokens) -> None:
    tokens.make_pair()
    tokens.pin_file.chmod(0o644)
    assert "chmod 600" in refusal(tokens.uri())
    tokens.pin_file.chmod(0o600)
    tokens.pin_file.write_bytes(b"\xff\n")
    assert "not UTF-8" in refusal(tokens.uri())
    assert "wants a PIN" in refusal(tokens.uri().partition("&pin-source")[0])


# --- what is not there ------------------------------------------------------------------------------------------------


def test_a_missing_token_is_named(tokens: SoftTokens) -> None:
    assert "no token `nowhere`" in refusal(tokens.uri(token="token=nowhere"))
    assert "no token `akpolicy`" in refusal(tokens.uri(token=f"token={LABEL};serial=00"))


def test_of_two_tokens_with_one_label_the_serial_number_decides(tokens: SoftTokens) -> None:
    made = create_token_key(tokens.uri())
    with tokens.session() as session:
        serial = session.token.serial.decode("ascii")
    tokens.add()
    tokens.begin_anew()
    assert "add `serial=" in refusal(tokens.uri())
    with closing(open_signer(tokens.uri(token=f"token={LABEL};serial={serial}"))) as signer:
        assert signer.public_key == made


def test_a_library_that_cannot_be_loaded_is_said(tokens: SoftTokens, tmp_path: Path) -> None:
    here = str(library())
    assert "No such file" in refusal(tokens.uri().replace(here, str(tmp_path / "none.so")))
    other = tmp_path / "other.so"
    other.write_bytes(b"not a library")
    assert "cannot load the PKCS#11 library" in refusal(tokens.uri().replace(here, str(other)))


def test_the_library_can_be_named_by_a_variable(tokens: SoftTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.make_pair()
    uri = tokens.uri().replace(f"module-path={library()}&", "")
    monkeypatch.delenv("PKCS11_MODULE", raising=False)
    assert "PKCS11_MODULE" in refusal(uri)
    monkeypatch.setenv("PKCS11_MODULE", str(library()))
    with closing(open_signer(uri)) as signer:
        assert signs(signer)
    # The URI comes first.
    monkeypatch.setenv("PKCS11_MODULE", "/nonexistent.so")
    with closing(open_signer(tokens.uri())) as signer:
        assert signs(signer)


# --- lost -------------------------------------------------------------------------------------------------------------


def test_a_lost_session_is_opened_again(tokens: SoftTokens, signer: Signer) -> None:
    for _ in range(3):
        tokens.begin_anew()
        assert signs(signer)


def test_signers_of_two_tokens_survive_a_loss_and_are_not_mixed_up(tokens: SoftTokens) -> None:
    tokens.add("second")
    # Same session numbers and object numbers in both tokens, once the library has begun anew.
    uris = [tokens.uri(), tokens.uri(token="token=second")]
    for uri in uris:
        create_token_key(uri)
    with closing(open_signer(uris[0])) as first, closing(open_signer(uris[1])) as second:
        for one, two in ((first, second), (second, first)):
            tokens.begin_anew()
            assert signs(one)
            assert signs(two)
            assert signs(one)


def test_a_token_that_is_gone_is_unavailable_until_it_is_back(tokens: SoftTokens, signer: Signer) -> None:
    [token] = tokens.directory.iterdir()
    away = token.rename(tokens.directory.with_name("away"))
    tokens.begin_anew()
    for _ in range(2):
        with pytest.raises(SignerUnavailable, match="no token `akpolicy`"):
            signer.sign(MESSAGE)
    away.rename(token)
    tokens.begin_anew()
    assert signs(signer)


def test_another_token_of_the_same_name_is_not_used(tokens: SoftTokens, signer: Signer) -> None:
    [token] = tokens.directory.iterdir()
    shutil.rmtree(token)
    tokens.add()
    tokens.begin_anew()
    with pytest.raises(SignerUnavailable, match="was replaced by another"):
        signer.sign(MESSAGE)


def test_another_key_of_the_same_name_is_not_used(tokens: SoftTokens, signer: Signer) -> None:
    with tokens.session(pin=None) as session:
        for key in list(session.get_objects()):
            key.destroy()
        generate(session, "bundle", b"\x01")
    with pytest.raises(SignerUnavailable, match="is another key than before"):
        signer.sign(MESSAGE)


def test_a_session_that_is_lost_twice_is_unavailable(tokens: SoftTokens, signer: Signer) -> None:
    connection = Connection.acquire(Pkcs11Uri.parse(tokens.uri()))
    asked = []

    def lose(session: pkcs11.Session) -> NoReturn:
        asked.append(session)
        raise SessionHandleInvalid

    try:
        with pytest.raises(SignerUnavailable, match="does not answer: SessionHandleInvalid"):
            connection.run(lose)
        assert len(asked) == 2
        assert asked[0] != asked[1]
    finally:
        connection.release()
    assert signs(signer)


def test_what_a_token_refuses_is_not_asked_twice(tokens: SoftTokens, signer: Signer) -> None:
    connection = Connection.acquire(Pkcs11Uri.parse(tokens.uri()))
    asked = []

    class RefusedForAReason(PKCS11Error):
        """What any other answer of a token is derived from."""

    def refuse(session: pkcs11.Session) -> NoReturn:
        asked.append(session)
        raise RefusedForAReason

    try:
        with pytest.raises(RefusedForAReason):
            connection.run(refuse)
        assert len(asked) == 1
    finally:
        connection.release()


def test_a_token_that_refuses_to_sign_is_said(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkcs11_keys, "_PURE_EDDSA", Mechanism.ML_DSA)
    with pytest.raises(SigningFailed, match="does not sign with `object=bundle`: MechanismInvalid"):
        signer.sign(MESSAGE)
    monkeypatch.undo()


# --- shared -----------------------------------------------------------------------------------------------------------


def test_one_signers_end_does_not_log_out_the_other(tokens: SoftTokens, signer: Signer) -> None:
    other = open_signer(tokens.uri())
    [connection] = pkcs11_token._connections.values()
    session = connection._session
    assert signs(other)
    other.close()
    other.close()
    with pytest.raises(SignerUnavailable, match="is closed"):
        other.sign(MESSAGE)
    assert signs(signer)
    assert connection._session is session is not None


def test_a_signer_that_cannot_be_opened_leaves_nothing_open(tokens: SoftTokens, signer: Signer) -> None:
    refusal(tokens.uri("object=none"))
    assert signs(signer)


def test_threads_can_share_signers_and_a_token(tokens: SoftTokens, signer: Signer) -> None:
    create_token_key(tokens.uri("object=second"))
    with closing(open_signer(tokens.uri("object=second"))) as second, ThreadPoolExecutor(8) as threads:
        results = list(threads.map(signs, [signer, second] * 100))
    assert results == [True] * 200


def test_threads_can_share_a_session_that_is_lost(tokens: SoftTokens, signer: Signer) -> None:
    tokens.begin_anew()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(signs, [signer] * 50))
