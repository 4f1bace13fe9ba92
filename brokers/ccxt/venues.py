"""Tell what the exchanges that ccxt speaks to differ in, as far as a kill switch has to know before it asks them.

ccxt makes their calls alike, not what the calls leave out: some list conditional orders apart, some list only what is
settled in one currency unless they are asked for the others, some answer in pages. Each entry names its source; an
exchange that has none is taken as the most careful of them (`OTHER`).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from brokers.protocol import ClientOrderIds, Weights

Params = Mapping[str, Any]
MARKETS = ("spot", "margin", "swap", "future")
"""What `market` of an account may be: which of the exchange's wallets it is."""
_ALPHANUMERIC = string.ascii_letters + string.digits
_CAREFUL_IDS = ClientOrderIds(32, _ALPHANUMERIC, unique=False)
_ONE_EACH = Weights()


class Pages(StrEnum):
    """How an exchange goes on with a list that is longer than one answer."""

    ALL_AT_ONCE = "all at once"
    CURSOR = "cursor"
    """Each answer has the next one's token (Bybit)."""
    AFTER_ID = "after"
    """Newest first; the next is `after` the oldest id, as OKX calls what is older."""
    BELOW_ID = "idLessThan"
    """Newest first; the next has ids below the oldest (Bitget)."""
    OFFSET = "offset"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class View:
    """One list that an exchange gives of its open orders; all of them together are every open order.

    Attributes:
        name: what tells it from the others, within the id of an order; empty for the ordinary one.
        listing: what ccxt is asked with.
        cancelling: what ccxt is told to cancel one of these, or all of a symbol.
        conditional: whether these wait for a price, and turn into others when it is reached.
        raw: the exchange's own call and where its list is, where ccxt's leaves something out.
    """

    name: str = ""
    listing: Params = field(default_factory=dict)
    cancelling: Params = field(default_factory=dict)
    conditional: bool = False
    raw: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Venue:
    """One exchange, in one of its markets.

    Attributes:
        client_order_ids: what it takes as one; of `unique` see the source.
        id_key: under which name ccxt wants it.
        id_prefix: what the exchange puts before it.
        finds_by: what ccxt's `fetchOrder` is asked with to find an order by it; empty where it can't.
        orders: every list of open orders, conditional ones first: what is set off meanwhile is then seen in the other.
        positions: what ccxt is asked with for every position; several requests where one tells only a part.
        pages: how a long list goes on; `page_size` is the most in one answer.
        cancels_all: in one request for the whole account, or for each symbol; empty where it can't.
        batch: most orders that one request cancels by their ids.
        market_orders: whether there are any; else a close is a limit order that the market takes.
        safety_net: whether it has a dead-man timer that is armed here, and of what.
        fills_by_symbol: whether executions are listed for one symbol only.
        transfers: which of ccxt's calls list money that was moved in or out; none of them: it isn't told.
        requests_per_minute: in requests of weight one; None: ccxt's own figure.
        weights: of these, what each kind costs.
        options: what ccxt is made with.
        verifies_conditional: whether one that is no longer listed can be asked for by its id.
        equity: where the account's equity is in the answer to `fetchBalance`; empty: it is added up.
        known: whether the entry is more than the careful guess that others get.
    """

    client_order_ids: ClientOrderIds = _CAREFUL_IDS
    id_key: str = "clientOrderId"
    id_prefix: str = ""
    finds_by: str = ""
    orders: tuple[View, ...] = (View(),)
    positions: tuple[Params, ...] = ({},)
    pages: Pages = Pages.ALL_AT_ONCE
    page_size: int = 100
    cancels_all: Literal["", "account", "symbol"] = ""
    batch: int = 0
    market_orders: bool = True
    safety_net: Literal["", "account", "symbol"] = ""
    fills_by_symbol: bool = False
    transfers: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    weights: Weights = _ONE_EACH
    options: Params = field(default_factory=dict)
    verifies_conditional: bool = False
    equity: tuple[str, ...] = ()
    known: bool = True


_TRIGGER: Params = {"trigger": True}
_BINANCE_IDS = ClientOrderIds(36, _ALPHANUMERIC + ".:/_-", unique=False)
"""Binance, new order: `^[\\.A-Z\\:/a-z0-9_-]{1,36}$`, unique among open orders only."""
_BINANCE_FUTURES = Venue(
    client_order_ids=_BINANCE_IDS,
    finds_by="clientOrderId",
    # Binance, change log of 2025-11: conditional orders are algo orders, with lists and ids of their own.
    orders=(View("algo", _TRIGGER, _TRIGGER, conditional=True), View()),
    page_size=1000,
    cancels_all="symbol",
    batch=10,  # cancel multiple orders: at most ten
    safety_net="symbol",
    fills_by_symbol=True,
    transfers=("fetch_ledger",),
    requests_per_minute=2400,  # exchangeInfo, REQUEST_WEIGHT; the weights are those of the documentation, as ccxt has
    weights=Weights(open_orders=80, positions=5, cancel_many=1),
    # Leverage brackets only colour what ccxt says of margin, and would cost a request that a kill may not get.
    options={
        "leverageBrackets": {},
        "fetchPositions": "positionRisk",
        "warnOnFetchOpenOrdersWithoutSymbol": False,
        "fetchOpenOrders": {"warnWithoutSymbol": False},
    },
    verifies_conditional=True,
    equity=("totalMarginBalance",),
)
_BINANCE_SPOT = Venue(
    client_order_ids=_BINANCE_IDS,
    finds_by="clientOrderId",
    page_size=1000,
    cancels_all="symbol",
    fills_by_symbol=True,
    transfers=("fetch_deposits", "fetch_withdrawals"),
    requests_per_minute=1200,  # 6,000 of Binance's weights, of which ccxt counts each as a fifth
    weights=Weights(open_orders=16, positions=20),
    options={
        "fetchMarkets": {"types": ["spot"]},
        "fetchMargins": False,  # two more requests for every start, that other keys may be needed for
        "warnOnFetchOpenOrdersWithoutSymbol": False,
        "fetchOpenOrders": {"warnWithoutSymbol": False},
    },
)
_BYBIT_IDS = ClientOrderIds(36, _ALPHANUMERIC + "-_")
"""Bybit, place order, `orderLinkId`: at most 36 letters, digits, dashes, underscores; always unique."""
_OKX_ALGO = ("conditional", "oco", "trigger", "move_order_stop", "iceberg", "twap")
"""OKX, list of algo orders: each kind is asked for by itself."""
_OKX = Venue(
    # OKX, place order, `clOrdId`: at most 32 letters and digits; refused twice (51016), for how long isn't said
    client_order_ids=ClientOrderIds(32, _ALPHANUMERIC, unique=False),
    finds_by="clientOrderId",
    orders=(
        *(
            View(
                kind.replace("_", "-"),
                {"ordType": kind, **_TRIGGER},
                {"trailing": True} if kind == "move_order_stop" else _TRIGGER,
                conditional=True,
            )
            for kind in _OKX_ALGO
        ),
        View(),
    ),
    pages=Pages.AFTER_ID,
    batch=20,  # cancel multiple orders: at most 20; ten of the algo orders
    safety_net="account",
    transfers=("fetch_ledger",),
    weights=Weights(open_orders=3, positions=2),
    equity=("data", "0", "totalEq"),
)
_BITGET_PRODUCTS = ("USDT-FUTURES", "USDC-FUTURES")
_BITGET_PLANS = ("normal_plan", "profit_loss", "track_plan")
_VENUES: Mapping[str, Venue] = {
    "binanceusdm": _BINANCE_FUTURES,
    "binance": _BINANCE_SPOT,
    "bybit": Venue(
        client_order_ids=_BYBIT_IDS,
        # Bybit, open orders: conditional ones are among them; without `settleCoin` ccxt asks for USDT alone.
        orders=(
            View("", {"subType": "linear", "settleCoin": "USDT"}),
            View("usdc", {"subType": "linear", "settleCoin": "USDC"}),
            View("inverse", {"category": "inverse"}, raw=("privateGetV5OrderRealtime", ("result", "list"))),
        ),
        positions=(
            {"subType": "linear", "settleCoin": "USDT"},
            {"subType": "linear", "settleCoin": "USDC"},
            {"subType": "inverse"},
        ),
        pages=Pages.CURSOR,
        page_size=50,
        cancels_all="symbol",
        batch=10,  # batch cancel: at most ten of linear ones, for unified accounts
        transfers=("fetch_ledger",),
        weights=Weights(open_orders=15, positions=15, cancel_all=50),
        equity=("result", "list", "0", "totalEquity"),
    ),
    "okx": _OKX,
    "krakenfutures": Venue(
        # Kraken Futures, send order, `cliOrdId`: at most 100 characters; of letters and digits for certain
        client_order_ids=ClientOrderIds(100, _ALPHANUMERIC + "-", unique=False),
        cancels_all="account",
        batch=50,
        safety_net="account",
        equity=("accounts", "flex", "portfolioValue"),
    ),
    "hyperliquid": Venue(
        # Hyperliquid, `cloid`: a number of 128 bits in hexadecimal, of which no readable one can be made
        client_order_ids=ClientOrderIds(0, "", unique=False),
        batch=50,
        market_orders=False,  # Hyperliquid, exchange endpoint: limit and trigger orders only
        equity=("marginSummary", "accountValue"),
    ),
    "deribit": Venue(
        # Deribit, `label`: at most 64 characters, not unique
        client_order_ids=ClientOrderIds(64, _ALPHANUMERIC + "-_", unique=False),
        id_key="label",
        # ccxt asks for one currency's orders, Bitcoin's unless told; this is the call for all.
        orders=(View(raw=("privateGetGetOpenOrders", ("result",))),),
        cancels_all="account",
    ),
    "gate": Venue(
        # Gate, futures order, `text`: at most 28 characters behind `t-`
        client_order_ids=ClientOrderIds(28, _ALPHANUMERIC + "_-.", unique=False),
        id_prefix="t-",
        orders=tuple(
            View(
                f"{settle}{' trigger' if conditional else ''}",
                {"settle": settle, **(_TRIGGER if conditional else {})},
                _TRIGGER if conditional else {},
                conditional=conditional,
            )
            for conditional in (True, False)
            for settle in ("usdt", "btc")
        ),
        positions=({"settle": "usdt"}, {"settle": "btc"}),
        pages=Pages.OFFSET,
        cancels_all="symbol",
        weights=Weights(open_orders=4, positions=2),
    ),
    "kucoinfutures": Venue(
        # KuCoin Futures, `clientOid`: at most 40 characters, digits, letters, `_` and `-`
        client_order_ids=ClientOrderIds(40, _ALPHANUMERIC + "_-", unique=False),
        orders=(View("stop", _TRIGGER, _TRIGGER, conditional=True), View()),
        pages=Pages.NUMBER,
        page_size=50,
        cancels_all="symbol",
        weights=Weights(open_orders=8, positions=2),
        equity=("data", "accountEquity"),
        options={"uta": False},
    ),
    "bitget": Venue(
        orders=(
            *(
                View(
                    f"{product} {plan}",
                    {
                        "productType": product,
                        "planType": plan,
                        **({"trailing": True} if plan == "track_plan" else _TRIGGER),
                    },
                    {"productType": product, "planType": plan, **_TRIGGER},
                    conditional=True,
                )
                for product in _BITGET_PRODUCTS
                for plan in _BITGET_PLANS
            ),
            *(View(product, {"productType": product}, {"productType": product}) for product in _BITGET_PRODUCTS),
        ),
        positions=tuple({"productType": product} for product in _BITGET_PRODUCTS),
        pages=Pages.BELOW_ID,
        cancels_all="symbol",
        batch=50,
        weights=Weights(open_orders=16, positions=4),
    ),
    "kraken": Venue(
        # Kraken, add order, `cl_ord_id`: 18 characters of free text
        client_order_ids=ClientOrderIds(18, _ALPHANUMERIC, unique=False),
        cancels_all="account",
        safety_net="account",
        transfers=("fetch_deposits", "fetch_withdrawals"),
    ),
    "coinbase": Venue(batch=100),  # Coinbase, cancel orders: by their ids, at most 100
}
OTHER = Venue(known=False)
"""What is taken for granted of an exchange that has no entry: nothing that would hurt if it were not so."""


def venue_of(exchange: str, market: str) -> Venue:
    """What is known of this exchange in this market."""
    if exchange == "binance" and market in ("swap", "future"):
        return replace(_BINANCE_FUTURES, options={**_BINANCE_FUTURES.options, "fetchMarkets": {"types": ["linear"]}})
    found = _VENUES.get(exchange, OTHER)
    if market in ("spot", "margin") and exchange in ("bybit", "gate", "bitget"):
        # Their views above are those of derivatives; of spot there is one list, and one of conditional orders.
        views = (View("trigger", _TRIGGER, _TRIGGER, conditional=True), View())
        return replace(found, orders=views, positions=({},), pages=Pages.ALL_AT_ONCE, equity=())
    return found
