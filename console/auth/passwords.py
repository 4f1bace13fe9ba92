"""Hash and check passwords: argon2id, as RFC 9106 recommends where memory is scarce (64 MiB, 3 passes)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from breaker.errors import BreakerError, InvalidInput

SHORTEST = 12
LONGEST = 256
MOST_WAITING = 16
"""Sign-ins that may wait for their turn; each takes 64 MiB and a fifth of a second."""
T = TypeVar("T")

_hasher = PasswordHasher()


class TooManyAtOnce(BreakerError):
    """The queue is full. Nothing was looked at."""


class PasswordQueue:
    """Checks passwords one after the other, on a thread of its own.

    Whoever floods the console with sign-ins makes others wait for theirs, and not for pages, or for a trip.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._waiting = 0

    async def run(self, check: Callable[[], T]) -> T:
        """What `check` returns or raises. Raises TooManyAtOnce rather than wait for more than a few seconds."""
        if self._waiting >= MOST_WAITING:
            raise TooManyAtOnce("Too many people sign in at this moment; you are not signed in. Try again in a minute.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, check)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


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
    try:
        return _hasher.verify(password_hash or _nobody(), password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def random_password() -> str:
    """A password that nobody has to think of: 120 bits."""
    return secrets.token_urlsafe(15)
