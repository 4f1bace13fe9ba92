"""Sign what browsers carry for us, and keep secrets in a form that can't be used."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from breaker.atomic_file import write_atomically
from configuration.settings import ConfigurationError

KEY_BYTES = 32


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
    """This host's key for signing, made at first use; only its owner can read it.

    Raises ConfigurationError where the file holds no key: with an empty one anybody could sign.
    """
    path = state_dir / "console.key"
    state_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _offer(path, secrets.token_hex(KEY_BYTES))
    key = path.read_text().strip()
    if len(key) < 2 * KEY_BYTES:
        raise ConfigurationError(f"{path} is no key; remove it, and everybody signs in again")
    return bytes.fromhex(key)


def _offer(path: Path, text: str) -> None:
    """Give `path` that content, whole, unless another process has been first."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    write_atomically(partial, text)
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def digest(secret: str) -> str:
    """By what a random secret is known in the database."""
    return hashlib.sha256(secret.encode()).hexdigest()
