"""Hold the accounts of `make demo`: at which paper exchange each is, and what of it stays where it is."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deployments.account_sections import KEPT, alpaca_section, ib_section, perpetuals_section, spot_section
from sandbox.exchange.crypto_assets import CASH
from sandbox.exchange.scenario import Scenario
from sandbox.exchange.server import PaperExchange

_BOOKS: Final = Path(__file__).with_name("demo_venues.toml")


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """One account, and the exchange that is its venue."""

    name: str
    venue: str
    """In words."""
    exchange: PaperExchange
    section: str
    """Of the account in the configuration, from its heading on."""
    kept: frozenset[str] | None = None
    """Of a wallet, the balances that it keeps, as the exchange's report names them; None of an account that has
    positions.
    """

    @property
    def address(self) -> str:
        """Where it is reached: its TWS, if that is the way to it."""
        port = self.exchange.tws_port
        return self.exchange.url if port is None else f"127.0.0.1:{port}"

    def left(self, report: Mapping[str, Any]) -> list[str]:
        """What should have been closed and is not: of a wallet neither what it keeps nor dust."""
        if self.kept is None:
            return list(report["positions"])
        return [name for name in report["closable"] if name not in self.kept]

    def is_flat(self, report: Mapping[str, Any]) -> bool:
        return not report["open_orders"] and not self.left(report)


def start_accounts(started: ExitStack, alpaca: PaperExchange) -> list[DemoAccount]:
    """An account at each venue, at Alpaca on the exchange that is given; the others' run until `started` is closed.

    Raises `PaperExchangeFailed`.
    """
    read = books()
    spot, perpetuals = (started.enter_context(PaperExchange(read[name])) for name in ("SPOT", "PERPS"))
    ib = started.enter_context(PaperExchange(read["IB"], tws_port=0))
    kept = frozenset(f"{currency}{CASH}" for currency in KEPT if currency != CASH)
    return [
        DemoAccount("ALPACA", "Alpaca", alpaca, alpaca_section("ALPACA", alpaca.url)),
        DemoAccount("SPOT", "Binance spot", spot, spot_section("SPOT", spot.url), kept),
        DemoAccount("PERPS", "Binance futures", perpetuals, perpetuals_section("PERPS", perpetuals.url)),
        DemoAccount("IB", "Interactive Brokers", ib, ib_section("IB", ib.tws_port or 0)),
    ]


def books() -> dict[str, Scenario]:
    """What each account holds, by its name."""
    read = tomllib.loads(_BOOKS.read_text(encoding="utf-8"))
    return {name: Scenario.model_validate(book) for name, book in read.items()}
