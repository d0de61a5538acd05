"""Secrets at rest: encrypted with the operator's key, which may be changed without a moment's pause.

Fernet of the `cryptography` package (AES-128-CBC with HMAC-SHA256). The operator's text may be any of 32 characters or
more, so the Fernet key is derived from it by HKDF.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Unreadable(Exception):
    """Encrypted with a key that is not at hand."""


class NoKey(Exception):
    """There is no key to encrypt a webhook secret with: COMPLETAR_SECRET_KEY is not set."""


class Vault:
    def __init__(self, keys: Sequence[str]) -> None:
        """`keys`, newest first: the first encrypts, all of them decrypt."""
        self._fernet = MultiFernet([Fernet(_derived(key)) for key in keys])

    def seal(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def open(self, sealed: str) -> str:
        """Raises Unreadable."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise Unreadable("a stored secret was encrypted with a key that COMPLETAR_SECRET_KEY lacks") from None

    def reseal(self, sealed: str) -> str:
        """The same text, encrypted with the first key. Raises Unreadable."""
        return self.seal(self.open(sealed))


def _derived(key: str) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"completar webhook secrets").derive(key.encode())
    return base64.urlsafe_b64encode(derived)
