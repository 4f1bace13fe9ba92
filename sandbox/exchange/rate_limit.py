"""Count requests against the limit of a minute."""

from __future__ import annotations

from typing import Final

_WINDOW: Final = 60.0
"""Seconds on the exchange's clock in which `rate_limit` requests are allowed."""


class RateLimit:
    """A fixed window of a minute, as the venue's reset header describes it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.remaining = limit
        self.resets_at = _WINDOW

    def admit(self, now: float) -> bool:
        """Count this request; False when it is over the limit."""
        if now >= self.resets_at:
            self.resets_at = now + _WINDOW
            self.remaining = self.limit
        if self.remaining == 0:
            return False
        self.remaining -= 1
        return True
