"""Closes go by what is known of an instrument, by the venue's word or by this host's disk, and wait for neither."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from breaker.instruments import CRYPTO, EQUITY, Instrument
from brokers.instrument_store import InstrumentStore
from brokers.protocol import BrokerUnavailable, CloseOutcome, CloseResult
from tasks.kill.flatten import Flattening
from tasks.kill.known_instruments import KnownInstruments
from tests.tasks.timed_venue import NAME, StillClock, TimedVenue, position, watched

BITCOIN = replace(CRYPTO, price_increment=Decimal("0.5"), quantity_increment=Decimal("0.01"))
HELD = position("BTCUSD", "1.2345", CRYPTO)


class Telling(TimedVenue):
    """Tells of its instruments, once it is let."""

    told: Mapping[str, Instrument] | Exception = {}  # noqa: RUF012  each test sets its own
    wait: asyncio.Event | None = None

    async def instruments(self, symbols: Collection[str]) -> Mapping[str, Instrument]:
        self.asked.append((self.time.now - self.started, f"instruments {','.join(symbols)}"))
        if self.wait is not None:
            await self.wait.wait()
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


async def learnt(known: KnownInstruments) -> Instrument:
    """What is known of it when whatever was asked has been answered."""
    for _ in range(50):
        (held,) = await known.complete([HELD])
        await asyncio.sleep(0)
    return held.instrument


async def test_what_the_venue_tells_is_used_and_kept_for_the_next_time(clock: StillClock, tmp_path: Path) -> None:
    store, venue = InstrumentStore(tmp_path, NAME), Telling(clock)
    venue.told = {"BTCUSD": BITCOIN}
    known = KnownInstruments(venue, store)
    (first,) = await known.complete([HELD])
    assert first.instrument == CRYPTO, "nothing waits for the answer"
    assert await learnt(known) == BITCOIN
    assert venue.when("instruments BTCUSD") == [0], "it is asked once"
    assert store.read() == {"BTCUSD": BITCOIN}


async def test_the_disk_knows_it_when_the_venue_does_not_answer(clock: StillClock, tmp_path: Path) -> None:
    store, venue = InstrumentStore(tmp_path, NAME), Telling(clock, holdings=[HELD])
    store.add({"BTCUSD": BITCOIN})
    venue.wait = asyncio.Event()
    account = watched(venue, deadline=60.0)
    venue.answer = lambda close: CloseResult(close.symbol, CloseOutcome.ACCEPTED)
    venue.changes = {1.0: {"holdings": []}}
    assert await Flattening(account.run, instruments=store).until_flat()
    assert [close.quantity for close in venue.closes] == [Decimal("1.23")], "in the venue's own steps"


async def test_a_venue_that_fails_to_tell_keeps_nothing_from_being_closed(clock: StillClock, tmp_path: Path) -> None:
    for error in (BrokerUnavailable("away", account=NAME), KeyError("markets")):
        venue = Telling(clock, holdings=[HELD])
        venue.told = error
        account = watched(venue, deadline=60.0)
        blocked = tmp_path / "file"
        blocked.touch()
        assert await Flattening(account.run, instruments=InstrumentStore(blocked, NAME)).until_flat()
        assert [close.quantity for close in venue.closes] == [HELD.quantity]


async def test_a_disk_that_takes_nothing_loses_nothing_but_the_next_time(clock: StillClock, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    venue = Telling(clock)
    venue.told = {"BTCUSD": BITCOIN}
    assert await learnt(KnownInstruments(venue, InstrumentStore(blocked, NAME))) == BITCOIN


async def test_stocks_and_options_go_by_rules_and_are_not_asked_about(clock: StillClock) -> None:
    venue = Telling(clock)
    known = KnownInstruments(venue, None)
    assert await known.complete([position("AAPL", "3", EQUITY)]) == (position("AAPL", "3", EQUITY),)
    await known.close()
    assert venue.asked == []
