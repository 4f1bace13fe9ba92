"""Know what is traded in an account, by its venue or by this host's disk: nothing that closes waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from breaker.instruments import AssetClass, Instrument
from breaker.orders import Position
from brokers.instrument_store import InstrumentStore
from brokers.protocol import Broker

_log = logging.getLogger(__name__)

ASK_AGAIN_AFTER = 5.0
"""Seconds until the venue is asked again that could not tell."""
BY_THEIR_CLASS = frozenset({AssetClass.EQUITY, AssetClass.OPTION})
"""Their steps follow from rules, and not from what their venue says of each."""


class KnownInstruments:
    """What is known of one account's instruments; asks for the rest beside everything else."""

    def __init__(self, broker: Broker, store: InstrumentStore | None) -> None:
        self._broker = broker
        self._store = store
        self._known: dict[str, Instrument] | None = None
        self._asking: asyncio.Task[Mapping[str, Instrument]] | None = None
        self._ask_at = float("-inf")
        self._told: set[str] = set()
        """Symbols that the venue was asked about and has answered for, or knows nothing of."""

    async def complete(self, positions: Sequence[Position]) -> tuple[Position, ...]:
        """The positions, each with what is known of its instrument beyond what it says itself."""
        if self._known is None:
            self._known = {} if self._store is None else await asyncio.to_thread(self._store.read)
        await self._learn({position.symbol for position in positions if _is_in_doubt(position.instrument)})
        known = self._known
        return tuple(
            replace(position, instrument=position.instrument.completed_by(known[position.symbol]))
            if position.symbol in known
            else position
            for position in positions
        )

    async def _learn(self, symbols: Collection[str]) -> None:
        if self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            await self._keep(asked.result())
        unknown = sorted({*symbols} - self._told)
        if unknown and self._asking is None and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + ASK_AGAIN_AFTER
            self._asking = asyncio.create_task(self._ask(unknown))

    async def _ask(self, symbols: Sequence[str]) -> Mapping[str, Instrument]:
        try:
            found = await self._broker.instruments(symbols)
        except Exception as error:  # whatever an adapter does must not keep anything from being closed
            _log.warning("%s: what is traded there was not told: %s", self._broker.name, error)
            return {}
        self._told |= {*symbols}
        return found

    async def _keep(self, found: Mapping[str, Instrument]) -> None:
        self._known = {**(self._known or {}), **found}
        if self._store is not None:
            with contextlib.suppress(OSError):  # a full disk must not keep anything from being closed
                await asyncio.to_thread(self._store.add, found)

    async def close(self) -> None:
        """Wait for no answer any more; one that has come is kept."""
        if self._asking is None:
            return
        if self._asking.done():
            await self._learn(())
        else:
            self._asking.cancel()
            self._asking = None


def _is_in_doubt(instrument: Instrument) -> bool:
    return instrument.asset_class not in BY_THEIR_CLASS and instrument.price_increment is None
