"""Sessions with PKCS#11 tokens, as one process has them.

Rules:

- One session a token, shared by all signers that use it: PKCS#11 counts logins by process and token, so that a second
  login is refused and one logout ends all. The session closes when its last user lets go. It was opened with the PIN
  of the first.
- All calls into PKCS#11 take turns, under one lock: libraries are initialised for one thread at a time.
- A session that was lost (the token was pulled, its service restarted) is opened again once, for the same token by
  label and serial number. A second loss is a `SignerUnavailable`, and the next call tries anew. With one session all
  of the same library are given up: a library that began anew may give an old session's number to another token's.
- A PIN that a token refused is not tried on it again in this process: tokens lock themselves after a few attempts.
- PKCS#11 knows no timeouts. A token that hangs, hangs its caller.

Errors are `SignerUnavailable`; a `PKCS11Error` comes through from what `Connection.run` was given alone.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import pkcs11
from pkcs11 import exceptions

from akpolicy.errors import KeyFileError, SignerUnavailable
from akpolicy.signing.pkcs11_uri import PIN_SOURCE_HINT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from akpolicy.signing.pkcs11_uri import Pkcs11Uri

Result = TypeVar("Result")
# Path of the library, label and serial number of the token.
TokenIdentity = tuple["Path", str, bytes]

CALLS: Final = threading.RLock()

_connections: dict[TokenIdentity, Connection] = {}
_refused_pins: set[tuple[TokenIdentity, bytes]] = set()

_LOST: Final = (
    exceptions.DeviceError,
    exceptions.DeviceRemoved,
    exceptions.GeneralError,
    exceptions.KeyHandleInvalid,
    exceptions.ObjectHandleInvalid,
    exceptions.SessionClosed,
    exceptions.SessionHandleInvalid,
    exceptions.TokenNotPresent,
    exceptions.UserNotLoggedIn,
)
_PIN_REFUSED: Final = (
    exceptions.PinExpired,
    exceptions.PinIncorrect,
    exceptions.PinInvalid,
    exceptions.PinLenRange,
    exceptions.PinLocked,
    exceptions.UserPinNotInitialized,
)


class Connection:
    """The session with one token, for all its users in this process."""

    def __init__(self, identity: TokenIdentity, uri: Pkcs11Uri, session: pkcs11.Session) -> None:
        self._identity = identity
        self._uri = uri
        self._session: pkcs11.Session | None = session
        self._users = 0

    @classmethod
    def acquire(cls, uri: Pkcs11Uri) -> Connection:
        """Return the connection with the token that `uri` names; every call needs one `release`."""
        with CALLS:
            identity, token = _find(uri)
            connection = _connections.get(identity)
            if connection is None:
                connection = cls(identity, uri, _log_in(identity, token, uri))
                _connections[identity] = connection
            connection._users += 1
            return connection

    def release(self) -> None:
        """Let go; the last user closes the session."""
        with CALLS:
            self._users -= 1
            if self._users == 0:
                self.give_up()
                del _connections[self._identity]

    def run(self, operation: Callable[[pkcs11.Session], Result]) -> Result:
        """Do something in the session; if that is lost, open it again and do it once more.

        Raises:
            SignerUnavailable: the session is lost and cannot be opened again, or is lost again.
            PKCS11Error: the token refuses for another reason.

        """
        with CALLS:
            if self._session is not None:
                try:
                    return operation(self._session)
                except exceptions.PKCS11Error as error:
                    if not _is_lost(error):
                        raise
            session = self._reopened()
            try:
                return operation(session)
            except exceptions.PKCS11Error as error:
                if not _is_lost(error):
                    raise
                raise SignerUnavailable(f"the token {self._uri.token_name} does not answer: {reason(error)}") from error

    @contextmanager
    def writing(self) -> Iterator[pkcs11.Session]:
        """Open a session that may make keys; a `PKCS11Error` means that the token cannot."""
        with CALLS:
            # Without a PIN, as the login counts for all sessions: closing one that had a PIN would log out the others.
            session = self.run(lambda shared: shared.token.open(rw=True))
            try:
                yield session
            finally:
                _close(session)

    def _reopened(self) -> pkcs11.Session:
        for (module, *_), connection in _connections.items():
            if module == self._uri.module:
                connection.give_up()
        identity, token = _find(self._uri)
        if identity != self._identity:
            raise SignerUnavailable(f"the token {self._uri.token_name} was replaced by another of that name")
        self._session = _log_in(identity, token, self._uri)
        return self._session

    def give_up(self) -> None:
        """Close the session; the next `run` opens another."""
        if self._session is not None:
            _close(self._session)
            self._session = None


def reason(error: exceptions.PKCS11Error) -> str:
    """Return what a token said: the name of its error, and the library's words if there are any."""
    words = str(error)
    return f"{type(error).__name__} ({words})" if words else type(error).__name__


def _is_lost(error: exceptions.PKCS11Error) -> bool:
    # The bare class stands for what has no name: a library that nobody initialised, or a vendor's own code, which is
    # how network HSMs say that their connection broke. To sign a second time does no harm.
    return isinstance(error, _LOST) or type(error) is exceptions.PKCS11Error


def _find(uri: Pkcs11Uri) -> tuple[TokenIdentity, pkcs11.Token]:
    try:
        library = pkcs11.lib(str(uri.module))
    except exceptions.PKCS11Error as error:
        raise SignerUnavailable(f"cannot load the PKCS#11 library: {reason(error)}") from error
    serial = None if uri.serial is None else uri.serial.encode("utf-8")
    try:
        token = library.get_token(token_label=uri.token, token_serial=serial)
    except exceptions.NoSuchToken as error:
        raise SignerUnavailable(
            f"no token {uri.token_name} in `{uri.module}`; `pkcs11-tool --module {uri.module} -L` lists what is there"
        ) from error
    except exceptions.MultipleTokensReturned as error:
        raise SignerUnavailable(f"several tokens are named {uri.token_name}; add `serial=<number>`") from error
    except exceptions.PKCS11Error as error:
        raise SignerUnavailable(f"cannot find the token {uri.token_name}: {reason(error)}") from error
    return (uri.module, token.label, token.serial), token


def _log_in(identity: TokenIdentity, token: pkcs11.Token, uri: Pkcs11Uri) -> pkcs11.Session:
    pin = _pin(token, uri)
    attempt = (identity, hashlib.sha256((pin or "").encode("utf-8")).digest())
    if attempt in _refused_pins:
        raise SignerUnavailable(
            f"the token {uri.token_name} refused this PIN before; it is not tried again, "
            f"because tokens lock themselves: correct {uri.pin_source}"
        )
    try:
        return _session(token, pin)
    except _PIN_REFUSED as error:
        _refused_pins.add(attempt)
        raise SignerUnavailable(
            f"the token {uri.token_name} refuses the PIN in {uri.pin_source}: {reason(error)}"
        ) from error
    except exceptions.PKCS11Error as error:
        raise SignerUnavailable(f"cannot open a session with the token {uri.token_name}: {reason(error)}") from error


def _session(token: pkcs11.Token, pin: str | None) -> pkcs11.Session:
    try:
        return token.open(user_pin=pin)
    except exceptions.UserAlreadyLoggedIn:
        # By other code in this process; its login is ours too.
        return token.open()


def _pin(token: pkcs11.Token, uri: Pkcs11Uri) -> str | None:
    if uri.pin_source is None:
        if token.flags & pkcs11.TokenFlag.LOGIN_REQUIRED:
            raise SignerUnavailable(f"the token {uri.token_name} wants a PIN: add {PIN_SOURCE_HINT}")
        return None
    try:
        return uri.pin_source.read().decode("utf-8")
    except KeyFileError as error:
        raise SignerUnavailable(f"cannot log in to the token {uri.token_name}: {error.message}") from error
    except UnicodeDecodeError:
        raise SignerUnavailable(f"the PIN in {uri.pin_source} is not UTF-8") from None


def _close(session: pkcs11.Session) -> None:
    # It may be lost already; either way it is not used again.
    with suppress(exceptions.PKCS11Error):
        session.close()
