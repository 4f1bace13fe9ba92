"""Passwords: argon2id, with the parameters that RFC 9106 recommends where memory is scarce (64 MiB, 3 passes)."""

from __future__ import annotations

import secrets
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from breaker.errors import InvalidInput

SHORTEST = 12
LONGEST = 256
_AT_ONCE = 2
"""Verifications at once; each takes 64 MiB and a core, which must not become a way to starve the console."""

_hasher = PasswordHasher()
_slots = threading.BoundedSemaphore(_AT_ONCE)


@cache
def _nobody() -> str:
    """A user that doesn't exist costs as much as one that does, so that time doesn't tell them apart."""
    return _hasher.hash(secrets.token_urlsafe(32))


def hash_password(password: str, user: str) -> str:
    """The argon2id hash.

    Raises:
        InvalidInput: too short, too long, or the user's own name.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidInput(f"A password has {SHORTEST} to {LONGEST} characters; nothing was changed.")
    if password.casefold() == user.casefold() or len(set(password)) < 5:
        raise InvalidInput("That password would be guessed; nothing was changed. Use several words.")
    return _hasher.hash(password)


def password_fits(password: str, password_hash: str | None) -> bool:
    """Whether it is the password; takes as long for None, a user that doesn't exist."""
    if len(password) > LONGEST:
        return False
    with _slots:
        try:
            return _hasher.verify(password_hash or _nobody(), password) and password_hash is not None
        except (VerificationError, InvalidHashError):
            return False


def random_password() -> str:
    """A password that nobody has to think of: 120 bits."""
    return secrets.token_urlsafe(15)
