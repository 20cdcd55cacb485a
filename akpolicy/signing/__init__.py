"""Private keys: making, keeping and using them.

Rules:

- A `Signer` signs bytes and says for which public key. Documents are signed through `sign_document` alone, which lets
  out nothing that the signer's own public key does not verify.
- A signer is named by URI, and `open_signer` is the only way from a URI to a signer: `file:` a key file, `env:` a key
  in a variable, `pkcs11:` a key in a token, and what installed packages add. docs/operations/signers.md has them all.
- A URI holds no secret. It says where a passphrase or PIN is; a secret in its place is refused and not repeated.
- A public key is loaded through `PublicKey.from_bytes`, whoever holds the private half: weak keys never sign.
- A key is never overwritten, neither in a file nor in a token.
- What a scheme needs is imported when its first URI is opened: most installations have no token.
"""

from akpolicy.signing.key_files import (
    MAX_KEY_FILE_BYTES,
    MIN_PASSPHRASE_BYTES,
    create_key_file,
    key_file_uri,
    load_key_file,
)
from akpolicy.signing.registry import SIGNERS_GROUP, create_token_key, known_schemes, open_signer
from akpolicy.signing.secret_sources import SecretSource
from akpolicy.signing.signer import PrivateKeySigner, Signer, sign_document
from akpolicy.signing.uris import looks_like_uri

__all__ = [
    "MAX_KEY_FILE_BYTES",
    "MIN_PASSPHRASE_BYTES",
    "SIGNERS_GROUP",
    "PrivateKeySigner",
    "SecretSource",
    "Signer",
    "create_key_file",
    "create_token_key",
    "key_file_uri",
    "known_schemes",
    "load_key_file",
    "looks_like_uri",
    "open_signer",
    "sign_document",
]
