"""Ed25519 keys in PKCS#11 tokens: `pkcs11:` signers, and how such a key is made.

Rules:

- Only a private key that cannot leave its token is used: CKA_SENSITIVE, and not CKA_EXTRACTABLE. Any other is refused,
  because it may have copies.
- The public key is the token's object of the same CKA_ID (or label, without an id). That both belong together is proven
  when the signer is opened, by signing bytes that no document begins with.
- After a lost session the key is looked up and checked again, and must be the same one.
- A pair is made inside the token. A label or an id that exists is refused; a pair that fails a check is destroyed.

Errors are `SignerUnavailable` when opening and making, `SigningFailed` when signing, and `WeakKey` for a weak key.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, exceptions
from pkcs11.util.ec import encode_named_curve_parameters

from akpolicy.errors import SignerUnavailable, SigningFailed
from akpolicy.keys import PUBLIC_KEY_BYTES, PublicKey
from akpolicy.signing.pkcs11_token import Connection, reason
from akpolicy.signing.pkcs11_uri import Pkcs11Uri

if TYPE_CHECKING:
    import pkcs11

# No DSSE encoding begins so: this signature vouches for nothing.
PROBE: Final = b"akpolicy/signer-probe/v1\x00"
NEW_ID_BYTES: Final = 16

_ED25519_OID: Final = "1.3.101.112"
# Without parameters: pure Ed25519, as in RFC 8032.
_PURE_EDDSA: Final = Mechanism.EDDSA
# A point is written bare (PKCS#11 3.0), as an OCTET STRING (2.40) or as a BIT STRING (some tokens).
_POINT_PREFIXES: Final = (b"", b"\x04\x20", b"\x03\x21\x00")


class Pkcs11Signer:
    """Signs with one key in a token. Thread-safe: all calls into PKCS#11 take turns."""

    def __init__(self, uri: Pkcs11Uri) -> None:
        """Log in, find the key and prove that it works; raise `SignerUnavailable` or `WeakKey`."""
        self._uri = uri
        self._found: tuple[pkcs11.Session, Any] | None = None
        self._public_key: PublicKey | None = None
        self._connection: Connection | None = Connection.acquire(uri)
        try:
            self._prove(self._connection)
        except BaseException:
            self.close()
            raise

    @property
    def public_key(self) -> PublicKey:
        """The public key, as the token had it when this signer was opened."""
        if self._public_key is None:
            raise RuntimeError("a signer that could not be opened has no key")
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Return the raw 64-byte signature, made in the token; raise `SigningFailed` or `SignerUnavailable`."""
        if self._connection is None:
            raise SignerUnavailable(f"the signer of {self._uri.key_name} is closed")
        try:
            return self._connection.run(lambda session: self._sign_in(session, message))
        except exceptions.PKCS11Error as error:
            raise SigningFailed(
                f"the token {self._uri.token_name} does not sign with {self._uri.key_name}: {reason(error)}"
            ) from error

    def close(self) -> None:
        """Let go of the token; the last signer that does closes the session."""
        connection, self._connection, self._found = self._connection, None, None
        if connection is not None:
            connection.release()

    def _prove(self, connection: Connection) -> None:
        try:
            signature = connection.run(lambda session: self._sign_in(session, PROBE))
        except exceptions.PKCS11Error as error:
            raise SignerUnavailable(
                f"the token {self._uri.token_name} cannot use {self._uri.key_name}: {reason(error)}"
            ) from error
        _check_probe(self.public_key, signature, self._uri)

    def _sign_in(self, session: pkcs11.Session, message: bytes) -> bytes:
        if self._found is None or self._found[0] is not session:
            private, public_key = _find_pair(session, self._uri)
            if self._public_key not in (None, public_key):
                raise SignerUnavailable(f"{self._uri.key_name} is another key than before; open the signer anew")
            self._found, self._public_key = (session, private), public_key
        signature: bytes = self._found[1].sign(message, mechanism=_PURE_EDDSA)
        return signature


def open_token_key(uri: str) -> Pkcs11Signer:
    """Open a `pkcs11:` URI; raise `SignerUnavailable` or `WeakKey`."""
    return Pkcs11Signer(Pkcs11Uri.parse(uri))


def create_token_key(uri: str) -> PublicKey:
    """Make a pair inside a token, labelled as the URI's `object` says, and return its public half.

    Without an `id` in the URI a random one is given. Raises `SignerUnavailable` if it exists or cannot be made.
    """
    wanted = Pkcs11Uri.parse(uri)
    if wanted.label is None:
        raise SignerUnavailable("a new key needs a label: add `object=<label>` to the URI")
    connection = Connection.acquire(wanted)
    try:
        with connection.writing() as session:
            return _create(session, wanted, wanted.label)
    except exceptions.PKCS11Error as error:
        raise SignerUnavailable(f"the token {wanted.token_name} cannot make an Ed25519 key: {reason(error)}") from error
    finally:
        connection.release()


# --- finding ----------------------------------------------------------------------------------------------------------


def _find_pair(session: pkcs11.Session, uri: Pkcs11Uri) -> tuple[Any, PublicKey]:
    """Return the private key object, checked, and the public key."""
    found = _objects(session, ObjectClass.PRIVATE_KEY, uri.label, uri.key_id)
    if not found:
        raise SignerUnavailable(
            f"no private key {uri.key_name} in the token {uri.token_name}; "
            "`akpolicy keys generate --pkcs11 <this URI>` makes one"
        )
    if len(found) > 1:
        raise SignerUnavailable(f"several private keys are {uri.key_name} in the token {uri.token_name}; add `id=`")
    key_id = _check_private(found[0], uri)
    label = None if key_id else uri.label
    public = _objects(session, ObjectClass.PUBLIC_KEY, label, key_id)
    if len(public) != 1:
        count = "no public key belongs" if not public else "several public keys belong"
        raise SignerUnavailable(
            f"{count} to {uri.key_name} in the token {uri.token_name}; it needs one, of the same id"
        )
    return found[0], _public_key(public[0], uri)


def _objects(session: pkcs11.Session, kind: ObjectClass, label: str | None, key_id: bytes | None) -> list[Any]:
    """Return the objects of a kind, two of them at most."""
    attributes: dict[Attribute, Any] = {Attribute.CLASS: kind}
    if label is not None:
        attributes[Attribute.LABEL] = label
    if key_id is not None:
        attributes[Attribute.ID] = key_id
    # To the end of the search, which the library would otherwise leave open.
    return list(session.get_objects(attributes))[:2]


def _check_private(key: Any, uri: Pkcs11Uri) -> bytes | None:  # noqa: ANN401 - the library makes its classes at run time
    """Refuse a key of another kind or one that can leave the token; return its CKA_ID, None if it has none."""
    wanted = [Attribute.KEY_TYPE, Attribute.SIGN, Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.ID]
    known = key.get_attributes(wanted)
    if known.get(Attribute.KEY_TYPE) != KeyType.EC_EDWARDS:
        raise SignerUnavailable(f"{uri.key_name} in the token {uri.token_name} is not an Ed25519 key")
    if known.get(Attribute.SIGN) is not True:
        raise SignerUnavailable(f"{uri.key_name} in the token {uri.token_name} may not sign (CKA_SIGN)")
    # An attribute that the token does not tell counts as the wrong one.
    if known.get(Attribute.SENSITIVE) is not True or known.get(Attribute.EXTRACTABLE) is not False:
        raise SignerUnavailable(
            f"{uri.key_name} can be extracted from the token {uri.token_name}, so that copies of it may exist; "
            "use a key that is CKA_SENSITIVE and not CKA_EXTRACTABLE, such as `akpolicy keys generate --pkcs11` makes"
        )
    return known.get(Attribute.ID) or None


def _public_key(public: Any, uri: Pkcs11Uri) -> PublicKey:  # noqa: ANN401 - the library makes its classes at run time
    point: bytes = public[Attribute.EC_POINT]
    raw = point[-PUBLIC_KEY_BYTES:]
    if point not in [prefix + raw for prefix in _POINT_PREFIXES] or len(raw) != PUBLIC_KEY_BYTES:
        raise SignerUnavailable(f"the public key of {uri.key_name} in the token {uri.token_name} is no Ed25519 point")
    return PublicKey.from_bytes(raw)


def _check_probe(public_key: PublicKey, signature: bytes, uri: Pkcs11Uri) -> None:
    if not public_key.verifies(signature, PROBE):
        raise SignerUnavailable(
            f"the token {uri.token_name} signs with {uri.key_name} what its public key of that name does not verify"
        )


# --- making -----------------------------------------------------------------------------------------------------------


def _create(session: pkcs11.Session, uri: Pkcs11Uri, label: str) -> PublicKey:
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        if _objects(session, kind, label, None) or (uri.key_id and _objects(session, kind, None, uri.key_id)):
            raise SignerUnavailable(
                f"{uri.key_name} exists in the token {uri.token_name}; a key is never overwritten: choose another label"
            )
    public, private = _generate(session, label, uri.key_id or secrets.token_bytes(NEW_ID_BYTES))
    try:
        _check_private(private, uri)
        public_key = _public_key(public, uri)
        _check_probe(public_key, private.sign(PROBE, mechanism=_PURE_EDDSA), uri)
    except BaseException:
        private.destroy()
        public.destroy()
        raise
    return public_key


def _generate(session: pkcs11.Session, label: str, key_id: bytes) -> tuple[Any, Any]:
    curve = session.create_domain_parameters(
        KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: encode_named_curve_parameters(_ED25519_OID)}, local=True
    )
    return curve.generate_keypair(
        id=key_id,
        label=label,
        store=True,
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
        private_template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )
