"""Answer what clients ask of the wallet API (`/sapi`): currencies, what the key may do, money in and out of spot.

Source: developers.binance.com, "Wallet", "Capital" and "Account". Futures tell of transfers by their income.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sandbox.exchange.binance.answers import Json, fixed, milliseconds
from sandbox.exchange.binance.balances import Balance, balances
from sandbox.exchange.binance.endpoints import Endpoint, always
from sandbox.exchange.binance.lookup import is_within
from sandbox.exchange.binance.market_data import is_served
from sandbox.exchange.binance.parameters import Parameters
from sandbox.exchange.book import Transfer
from sandbox.exchange.crypto_assets import CASH, currencies_of
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Venue

_DEPOSIT_DONE: Final = 1
_WITHDRAWAL_DONE: Final = 6
_INTERNAL: Final = 1
_NETWORK: Final = "ETH"


async def currencies(venue: Venue, _parameters: Parameters) -> list[Json]:
    """What the wallet has of each currency, of which none can be moved here."""
    held = balances(venue.exchange.book) if is_served(venue, Protocol.BINANCE_SPOT) else {}
    listed = {currency for symbol in venue.exchange.book.prices for currency in currencies_of(symbol)}
    return [
        {
            "coin": currency,
            "name": currency,
            "depositAllEnable": False,
            "withdrawAllEnable": False,
            "trading": True,
            "isLegalMoney": False,
            "free": f"{held.get(currency, Balance()).free:f}",
            "locked": f"{held.get(currency, Balance()).locked:f}",
            "freeze": "0",
            "withdrawing": "0",
            "ipoing": "0",
            "ipoable": "0",
            "storage": "0",
            "networkList": [],
        }
        for currency in sorted(listed)
    ]


async def no_margin_pairs(_venue: Venue, _parameters: Parameters) -> list[Json]:
    """Nothing is traded on margin; clients ask when they start."""
    return []


async def key_permissions(venue: Venue, _parameters: Parameters) -> Json:
    """What the key may do."""
    trades = venue.scenario.account.key_may_trade
    return {
        "ipRestrict": False,
        "createTime": milliseconds(venue, 0),
        "enableReading": True,
        "enableSpotAndMarginTrading": trades and is_served(venue, Protocol.BINANCE_SPOT),
        "enableFutures": trades and is_served(venue, Protocol.BINANCE_FUTURES),
        "enableMargin": False,
        "enableWithdrawals": False,
        "enableInternalTransfer": False,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enablePortfolioMarginTrading": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": False,
    }


async def deposits(venue: Venue, parameters: Parameters) -> list[Json]:
    """The newest first."""
    return [
        {
            "id": _id(number),
            "amount": fixed(transfer.amount, 8),
            "coin": CASH,
            "network": _NETWORK,
            "status": _DEPOSIT_DONE,
            "address": "",
            "addressTag": "",
            "txId": f"Internal transfer {_id(number)}",
            "insertTime": milliseconds(venue, transfer.at),
            "transferType": _INTERNAL,
            "confirmTimes": "1/1",
            "unlockConfirm": 0,
            "walletType": 0,
        }
        for number, transfer in _moved(venue, parameters)
        if transfer.amount > 0
    ]


async def withdrawals(venue: Venue, parameters: Parameters) -> list[Json]:
    """The newest first; times are in UTC, to the second."""
    return [
        {
            "id": _id(number),
            "amount": fixed(-transfer.amount, 8),
            "transactionFee": "0",
            "coin": CASH,
            "status": _WITHDRAWAL_DONE,
            "address": "",
            "txId": f"Internal transfer {_id(number)}",
            "applyTime": _to_the_second(milliseconds(venue, transfer.at)),
            "completeTime": _to_the_second(milliseconds(venue, transfer.at)),
            "network": _NETWORK,
            "transferType": _INTERNAL,
            "info": "",
            "walletType": 0,
        }
        for number, transfer in _moved(venue, parameters)
        if transfer.amount < 0
    ]


def _moved(venue: Venue, parameters: Parameters) -> list[tuple[int, Transfer]]:
    coin = parameters.text("coin")
    found = [
        (number, transfer)
        for number, transfer in enumerate(venue.exchange.book.transfers)
        if coin in {None, CASH} and is_within(parameters, milliseconds(venue, transfer.at))
    ]
    return found[::-1]


def _id(number: int) -> str:
    return f"{7_000_000_000 + number}"


def _to_the_second(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1_000, UTC):%Y-%m-%d %H:%M:%S}"


WALLET: Final = [
    Endpoint("GET", "/sapi/v1/capital/config/getall", currencies, always(10)),
    Endpoint("GET", "/sapi/v1/account/apiRestrictions", key_permissions, always(1)),
    Endpoint("GET", "/sapi/v1/margin/allPairs", no_margin_pairs, always(1)),
    Endpoint("GET", "/sapi/v1/margin/isolated/allPairs", no_margin_pairs, always(10)),
    Endpoint("GET", "/sapi/v1/capital/deposit/hisrec", deposits, always(1)),
    Endpoint("GET", "/sapi/v1/capital/withdraw/history", withdrawals, always(2)),
]
