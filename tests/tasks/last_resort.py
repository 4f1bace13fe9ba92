"""The last resort against the paper exchange, fast: its own procedure, in this process, on the exchange's clock.

It has to run on the main thread, as it limits each request by a signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sandbox.exchange.server import PaperExchange
from tests.tasks.campaign import FASTER

PACE = {
    "deadline": 90.0,
    "poll_interval": 0.25,
    "escalate_after": 3.0,
    "refusal_patience": 20.0,
    "cancel_patience": 5.0,
    "retry_backoff": 1.0,
    "retry_backoff_max": 8.0,
    "stuck_after": 20.0,
    "position_lag": 5.0,
    "settle": 1.0,
    "guard": 5.0,
}


def scale_last_resort(emergency: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emergency, "FRESH_FOR", 0.3)
    monkeypatch.setattr(emergency, "MARKET_CLOCK_AGE", emergency.MARKET_CLOCK_AGE / FASTER)
    monkeypatch.setattr(emergency, "say", lambda _text: None)


class _NoSpool:
    def record(self, action: str, outcome: str = "OK", /, **details: Any) -> None:
        """What it did is not asked here: the exchange tells."""


@dataclass(frozen=True)
class LastResort:
    """One run that ended, and what the exchange says then."""

    stuck: Mapping[str, str]
    dust: Mapping[str, str]
    venue: dict[str, Any]

    @classmethod
    def run(cls, emergency: ModuleType, exchange: PaperExchange, incident_id: str) -> LastResort:
        """From its first request to its verdict."""
        pace = emergency.Pace(**{name: value / FASTER for name, value in PACE.items()}, request_timeout=0.5)
        credentials = emergency.Credentials("PAPER", exchange.url, "key", "secret", Path(), pace)
        flattening = emergency.Flattening(emergency.Venue(credentials), _NoSpool(), incident_id, pace)
        try:
            flattening.sweep()
            stuck = flattening.until_flat()
        except emergency.Refused as error:
            stuck = {"*": str(error)}
        return cls(stuck, dict(flattening.dust), exchange.report())

    @property
    def said_flat(self) -> bool:
        return not self.stuck

    @property
    def is_flat(self) -> bool:
        return not self.venue["open_orders"] and set(self.venue["positions"]) <= set(self.dust)

    def faults(self) -> list[str]:
        """Broken promises: a false flat, something left without a name, or what the exchange calls a violation."""
        faults = list(self.venue["violations"])
        faults += [f"turned over: {change}" for change in self.venue["sign_changes"] if change["by"] == "client"]
        if self.said_flat and not self.is_flat:
            faults.append(f"said flat, but the exchange has {self.venue['positions']}")
        if not self.said_flat and not set(self.venue["positions"]) <= {*self.stuck, *self.dust}:
            faults.append(f"left without a name: {self.venue['positions']}")
        return faults
