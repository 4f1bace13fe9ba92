"""Sign what browsers carry for us, and keep secrets in a form that can't be used."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path


class Signer:
    """Signs with this host's key, for one purpose at a time: what is signed for one fits no other."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def signature(self, text: str, purpose: str = "") -> str:
        signed = f"{purpose} {text}" if purpose else text
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()

    def fits(self, signature: str, text: str, purpose: str = "") -> bool:
        return hmac.compare_digest(signature.encode(), self.signature(text, purpose).encode())

    def sign(self, text: str, purpose: str = "") -> str:
        """The text and its signature, as a cookie."""
        return f"{text}.{self.signature(text, purpose)}"

    def unsign(self, cookie: str, purpose: str = "") -> str | None:
        """The text, if the cookie is one of ours."""
        text, _, signature = cookie.rpartition(".")
        return text if text and self.fits(signature, text, purpose) else None


def host_key(state_dir: Path) -> bytes:
    """This host's key for signing, made at first use; only its owner can read it."""
    path = state_dir / "console.key"
    state_dir.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return bytes.fromhex(path.read_text().strip())
    with os.fdopen(file, "w") as out:
        out.write(secrets.token_hex(32))
    return bytes.fromhex(path.read_text().strip())


def digest(secret: str) -> str:
    """By what a random secret is known in the database."""
    return hashlib.sha256(secret.encode()).hexdigest()
