"""When the last resort calls an account flat: what dust is, and what has become of it. On a clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.tasks.timed_venue import INCIDENT, StillClock

TOO_LITTLE = (403, {"code": 40310000, "message": "cost basis must be >= minimal amount of order 1"})
PACE: dict[str, Any] = {"deadline": 10.0, "poll_interval": 0.25, "settle": 1.0, "guard": 5.0}


@dataclass
class Venue:
    """An account that holds some bitcoin, changes at written-down moments, and refuses to sell less than one."""

    emergency: ModuleType
    time: StillClock
    quantity: str
    changes: Mapping[float, str] = field(default_factory=dict)
    answers_after: float = 0.0
    """Seconds that a close is kept waiting."""
    refuses_until: float = 0.0
    closes: list[str] = field(default_factory=list)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.time.now

    @property
    def elapsed(self) -> float:
        return self.time.now - self.started

    def book(self) -> Any:
        for moment in sorted(self.changes):
            if moment <= self.elapsed:
                self.quantity = self.changes[moment]
        self.changes = {moment: quantity for moment, quantity in self.changes.items() if moment > self.elapsed}
        held = [Decimal(self.quantity)] if Decimal(self.quantity) else []
        positions = [self.emergency.Position("BTCUSD", size, size, Decimal(95_000), "crypto") for size in held]
        return self.emergency.Book([], positions, [])

    def market(self) -> Any:
        return self.emergency.Market(True, "")

    def request(self, method: str, path: str, body: Mapping[str, Any], **_how: Any) -> tuple[int, Any]:
        self.time.now += self.answers_after
        self.closes.append(body["qty"])
        if Decimal(body["qty"]) < 1:
            return TOO_LITTLE
        if self.elapsed < self.refuses_until:
            return 403, {"message": "trading is halted"}
        self.quantity = "0"
        return 201, {}

    def order(self, client_order_id: str) -> None:
        return None

    def spared(self) -> float:
        return 0.0


def last_resort(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> Any:
    def sleep(seconds: float) -> None:
        venue.time.now += seconds

    monkeypatch.setattr(venue.emergency, "time", SimpleNamespace(monotonic=venue.time.monotonic, sleep=sleep))
    spool = SimpleNamespace(record=lambda *_what, **_details: None)
    return venue.emergency.Flattening(venue, spool, INCIDENT, venue.emergency.Pace(**PACE))


def test_dust_is_flat_once_it_has_been_watched(emergency: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue(emergency, StillClock(), "0.000000005")
    flattening = last_resort(venue, monkeypatch)
    assert flattening.until_flat() == {} and [*flattening.dust] == ["BTCUSD"]
    assert venue.closes == ["0.000000005"] and 6 <= venue.elapsed < 8


def test_dust_that_a_late_fill_came_on_top_of_is_closed(emergency: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue(emergency, StillClock(), "0.000000005", changes={3.0: "2.000000005"})
    flattening = last_resort(venue, monkeypatch)
    assert flattening.until_flat() == {} and [*flattening.dust] == []
    assert venue.closes == ["0.000000005", "2.000000005"] and venue.quantity == "0"


def test_dust_that_is_found_when_the_time_is_up_is_watched_too(
    emergency: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    venue = Venue(emergency, StillClock(), "0.000000005", answers_after=11.0, changes={14.0: "2.000000005"})
    flattening = last_resort(venue, monkeypatch)
    assert [*flattening.until_flat()] == ["BTCUSD"], "what came then is left, and named"


def test_what_a_late_fill_opens_again_has_all_its_time_anew(
    emergency: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the symbol had been held up before, until it was nearly given up."""
    venue = Venue(emergency, StillClock(), "3")
    flattening = last_resort(venue, monkeypatch)
    flattening._pace = emergency.Pace(**{**PACE, "deadline": 300.0, "stuck_after": 8.0, "retry_backoff_max": 1.0})
    venue.refuses_until, venue.changes = 7.0, {12.0: "3"}
    assert flattening.until_flat() == {}
    assert venue.closes[-1] == "3" and venue.quantity == "0"


def test_what_has_grown_has_all_its_time_anew(emergency: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    venue = Venue(emergency, StillClock(), "3")
    flattening = last_resort(venue, monkeypatch)
    flattening._pace = emergency.Pace(**{**PACE, "deadline": 300.0, "stuck_after": 8.0, "retry_backoff_max": 1.0})
    venue.refuses_until, venue.changes = 12.0, {7.0: "5"}
    assert flattening.until_flat() == {}
    assert venue.closes[-1] == "5" and venue.quantity == "0"
