"""Read what each account has at its venue at this moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from breaker.orders import ZERO, Order, Position
from brokers.coverage import Coverage
from brokers.protocol import Broker, BrokerError, Listed
from brokers.registry import open_broker
from configuration.accounts import AccountSettings
from configuration.settings import ConfigurationError

NOT_READ = (
    "configured since this console began, which does not read it: restart the console. "
    "The kill switch takes it all the same."
)


@dataclass(frozen=True, slots=True)
class AccountExposure:
    """Notionals and profit in `currency`, at the venue's current prices. `problem` says why there is nothing else."""

    account: str
    currency: str = ""
    equity: Decimal = ZERO
    orders: int = 0
    long: Decimal = ZERO
    short: Decimal = ZERO
    profit: Decimal = ZERO
    """Of the open positions, not realised."""
    positions: tuple[Position, ...] = ()
    """The largest first."""
    open_orders: tuple[Order, ...] = ()
    problem: str = ""

    @property
    def notional(self) -> Decimal:
        return self.long + self.short


class ExposureReader:
    """Keeps a broker per account. Every reading ends within the account's own time limits."""

    def __init__(self, accounts: Mapping[str, AccountSettings], markets_dir: Path | None = None) -> None:
        self._brokers: dict[str, Broker] = {}
        self._problems: dict[str, str] = {}
        self._limits = {name: account.request_timeout + 1 for name, account in accounts.items()}
        for name, account in accounts.items():
            try:
                self._brokers[name] = open_broker(name, account, markets_dir=markets_dir)
            except ConfigurationError as error:
                self._problems[name] = str(error)

    async def read(self) -> tuple[AccountExposure, ...]:
        """Every account, all at once. Raises nothing."""
        found = await asyncio.gather(*(self._read(name, broker) for name, broker in self._brokers.items()))
        return (*found, *(AccountExposure(name, problem=problem) for name, problem in self._problems.items()))

    async def close(self) -> None:
        for broker in self._brokers.values():
            await broker.aclose()

    async def _read(self, name: str, broker: Broker) -> AccountExposure:
        try:
            async with asyncio.timeout(self._limits[name]):
                account, orders, positions = await asyncio.gather(
                    broker.account(), broker.open_orders(), broker.positions()
                )
        except TimeoutError:
            return AccountExposure(name, problem=f"{name}: no answer within {self._limits[name]:g} s")
        except BrokerError as error:
            return AccountExposure(name, problem=str(error))
        problem = "; ".join(str(item) for item in (*orders.unreadable, *positions.unreadable))
        read = AccountExposure(name, account.currency, account.equity, problem=problem)
        return _holding(read, orders.items, positions.items, len(orders))


def covered_exposure(accounts: Sequence[AccountExposure], coverage: Coverage) -> tuple[AccountExposure, ...]:
    """Of each account what a kill switch of that coverage would touch, and of no other account. Pure.

    One that is covered and not read, as it was configured after this process began, is named.
    """
    read = {account.account: account for account in accounts}
    found = []
    for name in coverage.accounts:
        account = read.get(name) or AccountExposure(name, problem=NOT_READ)
        if coverage.whole_accounts or account.problem:
            found.append(account)
            continue
        orders = coverage.of_orders(Listed(account.open_orders)).items
        found.append(_holding(account, orders, coverage.of_positions(Listed(account.positions)).items, len(orders)))
    return tuple(found)


def _holding(
    account: AccountExposure, orders: Sequence[Order], positions: Sequence[Position], open_orders: int
) -> AccountExposure:
    """The account with what is given of its orders and positions, summed up."""
    held = sorted((position for position in positions if position.quantity), key=lambda p: p.notional, reverse=True)
    return replace(
        account,
        orders=open_orders,
        open_orders=tuple(orders),
        long=sum((p.notional for p in held if p.quantity > 0), ZERO),
        short=sum((p.notional for p in held if p.quantity < 0), ZERO),
        profit=sum((profit_of(p) for p in held), ZERO),
        positions=tuple(held),
    )


def profit_of(position: Position) -> Decimal:
    """Not realised; zero where the venue gives no current price."""
    price = position.current_price
    if price is None:
        return ZERO
    return position.instrument.gain(position.quantity, position.average_entry_price, price)
