"""Short words for what these tests ask of a signer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import SignerUnavailable
from akpolicy.signing import open_signer
from tests.unit.trust.scene import check_message

if TYPE_CHECKING:
    from akpolicy.errors import SignerError
    from akpolicy.signing import Signer

MESSAGE = b"a message"


def refusal(uri: str, error: type[SignerError] = SignerUnavailable) -> str:
    """Return what `open_signer` says; it must refuse with exactly this error."""
    with pytest.raises(error) as caught:
        open_signer(uri)
    assert type(caught.value) is error
    check_message(caught.value)
    return caught.value.message


def signs(signer: Signer) -> bool:
    """Whether the signer makes a signature that its public key verifies."""
    return signer.public_key.verifies(signer.sign(MESSAGE), MESSAGE)
