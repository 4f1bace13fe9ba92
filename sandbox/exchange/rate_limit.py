"""Count requests, their weights, or orders against the limit of a minute or of some seconds."""

from __future__ import annotations

from typing import Final

_MINUTE: Final = 60.0


class RateLimit:
    """A fixed window of so many seconds on the exchange's clock, as the venue's headers describe it.

    Whoever goes on asking after `ban_after` refusals is banned for `ban_for` seconds, where that is set.
    """

    def __init__(
        self, limit: int, *, window: float = _MINUTE, ban_after: int | None = None, ban_for: float = 0.0
    ) -> None:
        self.limit = limit
        self.remaining = limit
        self.window = window
        self.resets_at = window
        self.banned_until = 0.0
        self._ban_after = ban_after
        self._ban_for = ban_for
        self._refused = 0

    @property
    def used(self) -> int:
        return self.limit - self.remaining

    def admit(self, now: float, weight: int = 1) -> bool:
        """Count this request; False when it is over the limit, or comes from a banned address."""
        if now < self.banned_until:
            return False
        if now >= self.resets_at:
            self.resets_at = now + self.window
            self.remaining = self.limit
            self._refused = 0
        if self.remaining < weight:
            self._refused += 1
            if self._ban_after is not None and self._refused > self._ban_after:
                self.banned_until = now + self._ban_for
            return False
        self.remaining -= weight
        return True

    def is_banned(self, now: float) -> bool:
        return now < self.banned_until
