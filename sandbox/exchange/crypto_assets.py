"""Know what a crypto venue lists: pairs (`BTC/USDT`) and perpetual contracts (`BTCUSDT`), with Binance's filters. Pure.

The steps and minima of the best-known ones are of the size that `exchangeInfo` has for them; any other symbol gets
those of a coin of middling price. A pair whose quote currency is not the account's is paid from what is held of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from breaker.instruments import AssetClass
from sandbox.exchange.assets import Asset

CASH: Final = "USDT"
"""What the account is kept in."""
QUOTES: Final = (CASH, "USDC", "BTC", "ETH", "BNB")


@dataclass(frozen=True, slots=True)
class Coin:
    """One base currency: its usual price in `CASH`, and its steps as pair and as perpetual."""

    name: str
    price: Decimal
    tick: Decimal
    pair_step: Decimal
    contract_step: Decimal
    contract_minimum_cost: Decimal = Decimal(5)


def _coin(name: str, price: str, tick: str, pair_step: str, contract_step: str, cost: str = "5") -> Coin:
    return Coin(name, Decimal(price), Decimal(tick), Decimal(pair_step), Decimal(contract_step), Decimal(cost))


COINS: Final = {
    coin.name: coin
    for coin in (
        _coin("BTC", "95000", "0.1", "0.00001", "0.001", "100"),
        _coin("ETH", "3500", "0.01", "0.0001", "0.001", "20"),
        _coin("BNB", "650", "0.01", "0.001", "0.01"),
        _coin("SOL", "180", "0.01", "0.001", "0.01"),
        _coin("XRP", "2.2", "0.0001", "0.1", "0.1"),
        _coin("ADA", "0.65", "0.0001", "0.1", "1"),
        _coin("DOGE", "0.15", "0.00001", "1", "1"),
        _coin("LTC", "90", "0.01", "0.001", "0.001", "20"),
        _coin("LINK", "13", "0.001", "0.01", "0.01", "20"),
        _coin("AVAX", "21", "0.001", "0.01", "1"),
        _coin("DOT", "4", "0.001", "0.01", "0.1"),
        _coin("UNI", "7", "0.001", "0.01", "1"),
        _coin("TRX", "0.28", "0.00001", "0.1", "1"),
        _coin("ATOM", "4.5", "0.001", "0.01", "0.01"),
        _coin("NEAR", "2.4", "0.001", "0.1", "1"),
        _coin("ARB", "0.4", "0.0001", "0.1", "0.1"),
        _coin("USDC", "1", "0.0001", "1", "1"),
    )
}
_UNKNOWN: Final = _coin("", "10", "0.001", "0.01", "0.1")
_MOST_MARKET_ORDERS_COST: Final = 12_000_000
_MOST_ORDERS_COST: Final = 50_000_000
_PAIRS_MINIMUM_COST: Final = Decimal(5)


def crypto_asset_of(symbol: str, *, is_contract: bool) -> Asset:
    """The pair or the perpetual contract of this symbol."""
    base, quote = currencies_of(symbol)
    coin = COINS.get(base, _UNKNOWN)
    step = coin.contract_step if is_contract else coin.pair_step
    whole = Decimal(1)
    return Asset(
        symbol,
        AssetClass.PERPETUAL if is_contract else AssetClass.CRYPTO,
        quantity_increment=step,
        price_increment=coin.tick if quote in {CASH, "USDC"} else Decimal("0.0000001"),
        minimum_quantity=step,
        minimum_cost=coin.contract_minimum_cost if is_contract else _minimum_cost(quote),
        usual_price=coin.price if quote in {CASH, "USDC"} else coin.price / COINS[quote].price,
        maximum_quantity=(_MOST_ORDERS_COST / coin.price).quantize(whole),
        maximum_market_quantity=(_MOST_MARKET_ORDERS_COST / coin.price).quantize(whole),
        paid_from="" if is_contract or quote == CASH else f"{quote}/{CASH}",
    )


def currencies_of(symbol: str) -> tuple[str, str]:
    """Base and quote currency of a pair (`BTC/USDT`) or contract (`BTCUSDT`)."""
    if "/" in symbol:
        base, _, quote = symbol.partition("/")
        return base, quote
    quote = next((quote for quote in QUOTES if symbol.endswith(quote) and symbol != quote), CASH)
    return symbol.removesuffix(quote), quote


def _minimum_cost(quote: str) -> Decimal:
    """Of a pair's orders, in its quote currency."""
    return _PAIRS_MINIMUM_COST if quote in {CASH, "USDC"} else Decimal("0.0001")
