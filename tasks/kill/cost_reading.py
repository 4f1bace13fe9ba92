"""Read at the venue what an exit cost, once everything else is done: within a limit, and never as an exception."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from breaker.orders import Fill
from brokers.protocol import BROKEN_OFF, Broker, BrokerError, Listed, is_interrupted
from tasks.kill.account import AccountRun
from tasks.kill.cost import ExitCost, exit_cost, unexplained

COST_WITHIN = 5.0
"""Seconds that reading the fills of one account may take; accounts are read in parallel."""
COST_WHEN_LATE = 2.0
"""The same where the run's time is up: whoever waits for it to end has waited long enough."""
CLOCKS_DIFFER = timedelta(seconds=60)
"""How much further back than the run's start fills are asked for; which of them count is told by their orders."""
ASK_AGAIN = 0.1
ASK_AGAIN_MOST = 1.0
"""Seconds until the venue is asked again while its list lacks fills that its positions show; doubling, up to these."""
NOT_GIVEN = "not given by this venue"


async def read_cost(run: AccountRun, began: datetime) -> ExitCost:
    """What the exit of the account cost, or why that is not known. Never raises and ends within `COST_WITHIN`.

    Within `COST_WHEN_LATE`, if the run is past its deadline.
    """
    if not run.broker.capabilities.fills:
        return ExitCost(run.name, run.currency, problem=NOT_GIVEN)
    reading = _Reading(run, began)
    within = min(COST_WITHIN, COST_WHEN_LATE) if run.overdue else COST_WITHIN
    try:
        async with asyncio.timeout(within):
            await reading.until_complete()
    except TimeoutError:
        return reading.so_far(f"the venue has not told of {reading.missing} within {within:g} s")
    except BrokerError as error:
        return reading.so_far(str(error))
    except Exception as error:  # what it cost must not change what was done, whatever an adapter answers
        return reading.so_far(f"{type(error).__name__}: {error}")
    except asyncio.CancelledError:
        if is_interrupted():
            raise
        return reading.so_far(f"{run.name}: {BROKEN_OFF}")
    return reading.so_far("")


class _Reading:
    def __init__(self, run: AccountRun, began: datetime) -> None:
        self._run = run
        self._broker: Broker = run.broker
        self._began = began
        self._fills: Listed[Fill] | None = None

    @property
    def missing(self) -> str:
        return "its fills" if self._fills is None else "all of its fills"

    async def until_complete(self) -> None:
        await self._name_closes()
        wait = ASK_AGAIN
        while True:
            self._fills = self._run.coverage.of_fills(await self._broker.fills(self._began - CLOCKS_DIFFER))
            if not unexplained(self._run.opening, self._fills, self._began):
                break
            await asyncio.sleep(wait)
            wait = min(2 * wait, ASK_AGAIN_MOST)
        if not self._run.currency:
            self._run.currency = (await self._broker.account()).currency

    async def _name_closes(self) -> None:
        """Which orders those closes are that the venue took without saying so."""
        unnamed = self._run.opening.unnamed.items()
        found = await asyncio.gather(*(self._broker.order(name, symbol) for name, symbol in unnamed))
        self._run.opening.sent.update(order.id for order in found if order is not None)

    def so_far(self, problem: str) -> ExitCost:
        run = self._run
        if self._fills is None:
            return ExitCost(run.name, run.currency, problem=problem)
        cost = exit_cost(run.name, run.currency, run.opening, self._fills, self._began)
        unread = "; ".join(str(item) for item in self._fills.unreadable)
        return replace(cost, problem="; ".join(part for part in (unread, problem) if part))
