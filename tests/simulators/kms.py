"""A key service with the rules of AWS KMS for `ECC_NIST_EDWARDS25519` keys, and the client that speaks to it.

It signs for real. `modules` are what a program imports to reach it: `boto3` and the two modules of `botocore` that an
adapter needs, with the names and shapes of the originals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Callable

# Of the field `Message` of the operation `Sign`.
MAX_RAW_BYTES: Final = 4096


class ServiceError(Exception):
    """`botocore.exceptions.ClientError`: the service's answer is an error."""

    def __init__(self, code: str, words: str = "") -> None:
        super().__init__(f"An error occurred ({code}): {words}")
        self.response = {"Error": {"Code": code, "Message": words}}


class ConnectionError_(Exception):  # noqa: N801 - not Python's own
    """`botocore.exceptions.BotoCoreError`: the service was not reached."""


@dataclass
class KmsSimulator:
    """The service: its keys by id, what it signed, and what goes wrong next."""

    keys: dict[str, Any] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    signed: list[bytes] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    damage: Callable[[bytes], bytes] = lambda signature: signature
    open_clients: int = 0

    def create_key(self, key_id: str) -> PublicKey:
        """Make an Ed25519 key."""
        private = Ed25519PrivateKey.generate()
        self.keys[key_id] = private
        return PublicKey.from_bytes(private.public_key().public_bytes_raw())

    def create_other_key(self, key_id: str) -> None:
        """Make a key of another spec."""
        self.keys[key_id] = ec.generate_private_key(ec.SECP256R1())

    def fail_next(self, code: str) -> None:
        """Answer the next request with this error, such as `ThrottlingException`."""
        self.failures.append(ServiceError(code))

    def vanish_next(self) -> None:
        """Let the next request not arrive."""
        self.failures.append(ConnectionError_("Could not connect to the endpoint URL"))

    def key(self, key_id: str) -> Any:
        """Return a key as the service would for any request, or raise what it answers instead."""
        if self.failures:
            raise self.failures.pop(0)
        if key_id not in self.keys:
            raise ServiceError("NotFoundException", key_id)
        if key_id in self.disabled:
            raise ServiceError("DisabledException", key_id)
        return self.keys[key_id]

    def modules(self) -> dict[str, ModuleType]:
        """Return the modules by name, as for `sys.modules`."""
        boto3, botocore = ModuleType("boto3"), ModuleType("botocore")
        config, exceptions = ModuleType("botocore.config"), ModuleType("botocore.exceptions")
        vars(boto3)["client"] = self._client
        vars(config)["Config"] = dict
        vars(exceptions).update(ClientError=ServiceError, BotoCoreError=ConnectionError_)
        return {m.__name__: m for m in (boto3, botocore, config, exceptions)}

    def _client(self, service: str, config: dict[str, Any]) -> KmsClient:
        assert service == "kms"
        assert {"connect_timeout", "read_timeout"} <= config.keys(), "a signer without timeouts hangs its server"
        self.open_clients += 1
        return KmsClient(self)


class KmsClient:
    """What `boto3.client("kms")` returns: two operations with the parameters and answers of the originals."""

    def __init__(self, service: KmsSimulator) -> None:
        self._service = service

    def get_public_key(self, *, KeyId: str) -> dict[str, Any]:  # noqa: N803 - the original's names
        """Return the public key as SubjectPublicKeyInfo in DER."""
        public = self._service.key(KeyId).public_key()
        return {
            "KeyId": KeyId,
            "PublicKey": public.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
        }

    def sign(self, *, KeyId: str, Message: bytes, MessageType: str, SigningAlgorithm: str) -> dict[str, Any]:  # noqa: N803 - the original's names
        """Return a signature, or refuse as the original does."""
        key = self._service.key(KeyId)
        if not 1 <= len(Message) <= MAX_RAW_BYTES:
            raise ServiceError("ValidationException", f"message of {len(Message)} bytes")
        if not isinstance(key, Ed25519PrivateKey) or SigningAlgorithm != "ED25519_SHA_512":
            raise ServiceError("InvalidKeyUsageException", SigningAlgorithm)
        if MessageType != "RAW":
            raise ServiceError("ValidationException", MessageType)
        self._service.signed.append(Message)
        return {"KeyId": KeyId, "Signature": self._service.damage(key.sign(Message))}

    def close(self) -> None:
        """End the client."""
        self._service.open_clients -= 1
