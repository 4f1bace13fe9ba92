"""What a kill switch left stuck keeps the breaker halted, also where nothing keeps it as a pending exit."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from breaker.uuid7 import uuid7
from configuration.breakers import breaker_of, requested_trip
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from ledger.record import AuditRecord
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange, PaperExchangeThread
from tasks.checks import unclosed
from tasks.checks.measurement import Colour
from tasks.checks.unclosed import measure_unclosed
from tasks.kill.asked_kills import withdraw
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import AccountExits, PendingExit
from tests.tasks.recovery.conftest import Configure, configure

__all__ = ["configure"]

BOOK = 'positions = [{ symbol = "NVDA", qty = "10" }, { symbol = "MSFT", qty = "5" }]\n'


def ended(settings: Settings, action: str = "KILL_SWITCH_FINISHED", **details: Any) -> None:
    ledger = open_ready_ledger(settings)
    ledger.append([AuditRecord(action=action, source="cli", incident_id=uuid7(), details=details)])
    ledger.close()


async def test_what_is_stuck_and_not_pending_is_red_while_the_venue_holds_it(
    configure: Configure, exchange: PaperExchange
) -> None:
    exchange.restart(parse(BOOK))
    account = {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}
    settings = configure(accounts={"ALPHA": account})
    assert (await measure_unclosed(settings)).value == "nothing left"
    ended(settings, flat=False, stuck={"ALPHA": ["NVDA", "TSLA"]})
    found = await measure_unclosed(settings)
    assert (found.colour, found.value) == (Colour.RED, "NOT FLAT: ALPHA NVDA 10"), "nobody holds TSLA any more"
    assert (await measure_unclosed(settings, "account:BETA")).colour is Colour.GREEN
    ended(settings, declined=True)
    assert (await measure_unclosed(settings)).colour is Colour.RED, "a run that was declined has closed nothing"
    now = datetime.now(UTC)
    with open_pending_exits(settings) as store:
        pending = PendingExit("ALPHA", "NVDA", Decimal(10), "halted", uuid7(), "global", now, now)
        store.write(AccountExits("ALPHA", now, (pending,)))
    assert (await measure_unclosed(settings)).colour is Colour.GREEN, "position-sizes/pending-exits is red for it"
    with open_pending_exits(settings) as store:
        store.write(AccountExits("ALPHA", datetime.now(UTC), ()))
    assert (await measure_unclosed(settings)).colour is Colour.RED
    ended(settings, "CIRCUIT_BREAKER_RESET", epoch=7)
    assert (await measure_unclosed(settings)).colour is Colour.GREEN, "a reset has gone past it, by an override"
    ended(settings, flat=False, stuck={"GAMMA": ["NVDA"]})
    assert "GAMMA NVDA (the account is not configured here" in (await measure_unclosed(settings)).value
    ended(settings, flat=True, stuck={})
    assert (await measure_unclosed(settings)).colour is Colour.GREEN


async def test_what_a_kill_switch_that_died_on_the_way_covered_is_red_while_the_venue_holds_it(
    configure: Configure, exchange: PaperExchange
) -> None:
    exchange.restart(parse(BOOK))
    account = {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}
    settings = configure(accounts={"ALPHA": account})
    ended(settings, flat=True, stuck={})
    ended(settings, "KILL_SWITCH_STARTED", accounts=["ALPHA"], covers="ALPHA")
    found = await measure_unclosed(settings)
    assert (found.colour, found.value) == (Colour.RED, "not ended: ALPHA MSFT 5, ALPHA NVDA 10")
    assert "has not said its end" in found.problem
    ended(settings, interrupted=True, flat=False)
    ended(settings, "KILL_SWITCH_STARTED", accounts=["ALPHA"], covers="ALPHA")
    ended(settings, declined=True)
    assert (await measure_unclosed(settings)).value == found.value, "one that was interrupted is as one without an end"
    ended(settings, flat=True, stuck={})
    ended(settings, "KILL_SWITCH_STARTED", accounts=["ALPHA"], covers="ALPHA")
    ended(settings, declined=True)
    assert (await measure_unclosed(settings)).colour is Colour.GREEN, "it has touched nothing"
    ended(settings, "KILL_SWITCH_STARTED", accounts=["ALPHA"], covers="ALPHA")
    exchange.restart(parse("positions = []\n"))
    assert (await measure_unclosed(settings)).value == "closed since"
    exchange.restart(parse(BOOK))
    assert (await measure_unclosed(settings)).colour is Colour.RED
    ended(settings, "CIRCUIT_BREAKER_RESET", epoch=7)
    assert (await measure_unclosed(settings)).colour is Colour.GREEN, "a reset has gone past it, by an override"


async def test_what_a_kill_switch_that_never_began_was_to_close_is_red_while_the_venue_holds_it(
    configure: Configure, exchange: PaperExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.restart(parse(BOOK))
    account = {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}
    settings = configure(accounts={"ALPHA": account})
    breaker = breaker_of(settings, source="cli")
    trip = requested_trip("KILL_SWITCH", operator="ada", why="drill", scope="global", source="cli", closes=["ALPHA"])
    trip.make(breaker)
    assert (await measure_unclosed(settings)).colour is Colour.GREEN, "it may be about to begin"
    monkeypatch.setattr(unclosed, "TAKEN_OVER_AFTER", 0.0)
    found = await measure_unclosed(settings)
    assert (found.colour, found.value) == (Colour.RED, "not begun: ALPHA MSFT 5, ALPHA NVDA 10")
    assert "has not begun" in found.problem
    exchange.restart(parse("positions = []\n"))
    assert (await measure_unclosed(settings)).value == "closed since"
    exchange.restart(parse(BOOK))
    withdraw(settings, trip.event_id)
    assert (await measure_unclosed(settings)).value == "nothing left"


async def test_one_that_never_began_hides_neither_an_older_one_nor_what_another_run_left(
    configure: Configure, exchange: PaperExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.restart(parse(BOOK))
    flat = PaperExchangeThread(parse("positions = []\n"))
    account = {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}
    monkeypatch.setattr(unclosed, "TAKEN_OVER_AFTER", 0.0)
    with flat:
        settings = configure(accounts={"ALPHA": account, "BETA": {**account, "base_url": flat.url}})
        breaker = breaker_of(settings, source="cli")
        ids = []
        for closes in (["ALPHA"], ["BETA"]):
            asked = requested_trip(
                "KILL_SWITCH", operator="ada", why="drill", scope="global", source="cli", closes=closes
            )
            asked.make(breaker)
            ids.append(asked.event_id)
        assert (await measure_unclosed(settings)).value == "not begun: ALPHA MSFT 5, ALPHA NVDA 10"
        withdraw(settings, ids[0])
        assert (await measure_unclosed(settings)).value == "closed since"
        ended(settings, flat=False, stuck={"ALPHA": ["NVDA"]})
        found = await measure_unclosed(settings)
        assert (found.colour, found.value) == (Colour.RED, "NOT FLAT: ALPHA NVDA 10")
