"""Answer USDⓈ-M futures' endpoints for the account, its positions and its settings, and for what is listed.

Source: developers.binance.com, "USDⓈ-M Futures", "Account" and "Trade". Leverage is the scenario's multiplier; what a
client sets of leverage and margin is answered and changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from sandbox.exchange.binance import errors
from sandbox.exchange.binance.answers import Json, fixed, symbol_of
from sandbox.exchange.binance.endpoints import (
    Endpoint,
    Security,
    always,
    by_symbol,
    listed_symbol,
    listed_symbols,
)
from sandbox.exchange.binance.errors import BinanceRefusal
from sandbox.exchange.binance.futures_answers import FuturesWriter, has_positions
from sandbox.exchange.binance.market_data import is_served, market_data, quoted_at
from sandbox.exchange.binance.parameters import Parameters
from sandbox.exchange.binance.signing import venue_milliseconds
from sandbox.exchange.crypto_assets import CASH
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Venue

_OK: Final = {"code": 200, "msg": "success"}
_HIGHEST_LEVERAGE: Final = 125


async def exchange_info(venue: Venue, _parameters: Parameters) -> Json:
    """Everything that is listed with its filters."""
    writer = FuturesWriter(venue)
    symbols = sorted(venue.exchange.book.prices) if is_served(venue, Protocol.BINANCE_FUTURES) else []
    per_minute = {"interval": "MINUTE", "intervalNum": 1}
    limit = venue.rate_limit.limit
    return {
        "timezone": "UTC",
        "serverTime": venue_milliseconds(venue.scenario.clock_ahead_ms),
        "futuresType": "U_MARGINED",
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", **per_minute, "limit": limit},
            {"rateLimitType": "ORDERS", **per_minute, "limit": 1_200},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": venue.order_limit.limit},
        ],
        "exchangeFilters": [],
        "assets": [{"asset": CASH, "marginAvailable": True, "autoAssetExchange": "-10000"}],
        "symbols": [writer.listed(symbol) for symbol in symbols],
    }


async def nothing_listed(_venue: Venue, _parameters: Parameters) -> Json:
    """The venue's third market, coin-margined futures: clients ask for it when they start."""
    return {"timezone": "UTC", "rateLimits": [], "exchangeFilters": [], "symbols": []}


async def mark_prices(venue: Venue, parameters: Parameters) -> object:
    """Mark price and funding; the mark price is the market's."""

    def mark(symbol: str) -> Json:
        price = fixed(venue.exchange.book.prices[symbol], 8)
        quoted = quoted_at(venue, symbol)
        return {
            "symbol": symbol_of(symbol),
            "markPrice": price,
            "indexPrice": price,
            "estimatedSettlePrice": price,
            "lastFundingRate": "0.00010000",
            "interestRate": "0.00010000",
            "nextFundingTime": quoted + 3_600_000,
            "time": quoted,
        }

    found = [mark(symbol) for symbol in listed_symbols(venue, parameters)]
    return found[0] if parameters.text("symbol") else found


async def account(version: int, venue: Venue, _parameters: Parameters) -> Json:
    return FuturesWriter(venue).account(version)


async def balance(venue: Venue, _parameters: Parameters) -> list[Json]:
    return [FuturesWriter(venue).balance()]


async def positions(version: int, venue: Venue, parameters: Parameters) -> list[Json]:
    """Version 2 has every symbol, version 3 those with a position or an open order."""
    writer = FuturesWriter(venue)
    symbols = listed_symbols(venue, parameters)
    return writer.positions(symbols, all_of_them=version == 2, version=version)


async def position_mode(venue: Venue, _parameters: Parameters) -> Json:
    return {"dualSidePosition": venue.exchange.book.hedged}


async def set_position_mode(venue: Venue, parameters: Parameters) -> Json:
    """Only while there is neither an order nor a position."""
    parameters.required("dualSidePosition")
    hedged, book = parameters.flag("dualSidePosition"), venue.exchange.book
    if hedged is book.hedged:
        raise BinanceRefusal(-4059, "No need to change position side.")
    if book.open_orders:
        raise BinanceRefusal(-4067, "Position side cannot be changed if there exists open orders.")
    if book.positions:
        raise BinanceRefusal(-4068, "Position side cannot be changed if there exists position.")
    book.hedged = hedged
    return dict(_OK)


async def multi_assets_mode(_venue: Venue, _parameters: Parameters) -> Json:
    return {"multiAssetsMargin": False}


async def set_leverage(venue: Venue, parameters: Parameters) -> Json:
    symbol = listed_symbol(venue, parameters)
    leverage = parameters.integer("leverage")
    if leverage is None:
        raise errors.missing("leverage")
    if not 1 <= leverage <= _HIGHEST_LEVERAGE:
        raise BinanceRefusal(-4028, f"Leverage {leverage} is not valid")
    return {"leverage": leverage, "maxNotionalValue": "1000000000", "symbol": symbol}


async def set_margin_type(venue: Venue, parameters: Parameters) -> Json:
    """All margin is crossed."""
    symbol = listed_symbol(venue, parameters)
    wanted = parameters.required("marginType")
    if wanted == "CROSSED":
        raise BinanceRefusal(-4046, "No need to change margin type.")
    if has_positions(venue, symbol):
        raise BinanceRefusal(-4048, "Margin type cannot be changed if there exists position.")
    return dict(_OK)


async def leverage_brackets(venue: Venue, parameters: Parameters) -> object:
    """One bracket a symbol."""
    bracket = {
        "bracket": 1,
        "initialLeverage": venue.scenario.account.multiplier,
        "notionalCap": 1_000_000_000,
        "notionalFloor": 0,
        "maintMarginRatio": 0.004,
        "cum": 0.0,
    }
    found: list[Json] = [
        {"symbol": symbol, "notionalCoef": 1.0, "brackets": [bracket]} for symbol in listed_symbols(venue, parameters)
    ]
    return found


async def account_configuration(venue: Venue, _parameters: Parameters) -> Json:
    return {
        "feeTier": 0,
        "canTrade": not venue.exchange.locks.why,
        "canDeposit": True,
        "canWithdraw": True,
        "dualSidePosition": venue.exchange.book.hedged,
        "updateTime": 0,
        "multiAssetsMargin": False,
        "tradeGroupId": -1,
    }


async def symbol_configuration(venue: Venue, parameters: Parameters) -> list[Json]:
    return [
        {
            "symbol": symbol,
            "marginType": "CROSSED",
            "isAutoAddMargin": False,
            "leverage": venue.scenario.account.multiplier,
            "maxNotionalValue": "1000000000",
        }
        for symbol in listed_symbols(venue, parameters)
    ]


FUTURES_ACCOUNT: Final = [
    *market_data("/fapi/v1", Protocol.BINANCE_FUTURES),
    Endpoint("GET", "/fapi/v1/exchangeInfo", exchange_info, always(1), Security.PUBLIC),
    Endpoint("GET", "/dapi/v1/exchangeInfo", nothing_listed, always(1), Security.PUBLIC),
    Endpoint("GET", "/fapi/v1/premiumIndex", mark_prices, by_symbol(1, 10), Security.PUBLIC),
    Endpoint("GET", "/fapi/v2/account", partial(account, 2), always(5)),
    Endpoint("GET", "/fapi/v3/account", partial(account, 3), always(5)),
    Endpoint("GET", "/fapi/v2/balance", balance, always(5)),
    Endpoint("GET", "/fapi/v3/balance", balance, always(5)),
    Endpoint("GET", "/fapi/v2/positionRisk", partial(positions, 2), always(5)),
    Endpoint("GET", "/fapi/v3/positionRisk", partial(positions, 3), always(5)),
    Endpoint("GET", "/fapi/v1/positionSide/dual", position_mode, always(30)),
    Endpoint("POST", "/fapi/v1/positionSide/dual", set_position_mode, always(1)),
    Endpoint("GET", "/fapi/v1/multiAssetsMargin", multi_assets_mode, always(30)),
    Endpoint("POST", "/fapi/v1/leverage", set_leverage, always(1)),
    Endpoint("POST", "/fapi/v1/marginType", set_margin_type, always(1)),
    Endpoint("GET", "/fapi/v1/leverageBracket", leverage_brackets, always(1)),
    Endpoint("GET", "/fapi/v1/accountConfig", account_configuration, always(5)),
    Endpoint("GET", "/fapi/v1/symbolConfig", symbol_configuration, always(5)),
]
"""With the weights of the documentation."""
