"""Count down to the cancellation of a symbol's orders: the dead man's timer that a venue offers. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Countdown:
    """One symbol's; times are seconds on the exchange's clock."""

    times_set: int = 0
    fires_at: float | None = None
    """None while it is off."""
    fired_at: float | None = None

    def set(self, now: float, seconds: float) -> None:
        """Start anew; zero seconds turn it off."""
        self.times_set += 1
        self.fires_at = now + seconds if seconds else None

    def due(self, now: float) -> bool:
        """Whether it fires now; if so, it is off from now on."""
        if self.fires_at is None or now < self.fires_at:
            return False
        self.fires_at, self.fired_at = None, now
        return True

    def as_dict(self) -> dict[str, object]:
        return {"times_set": self.times_set, "fires_at": self.fires_at, "fired_at": self.fired_at}
