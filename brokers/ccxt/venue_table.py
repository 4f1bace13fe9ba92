"""Tell of each exchange that ccxt speaks to what a kill switch has to know before it asks it.

Each entry names its source. An exchange that has none is taken as the most careful of them (`OTHER`), and which lists
it has is asked of ccxt's own description (`lists`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from brokers.ccxt.venues import ALPHANUMERIC, Pages, Params, PositionView, Timer, UnifiedAccount, Venue, View
from brokers.protocol import ClientOrderIds, Weights

_TRIGGER: Params = {"trigger": True}
_BINANCE_IDS = ClientOrderIds(36, ALPHANUMERIC + ".:/_-", unique=False)
"""Binance, new order: `^[\\.A-Z\\:/a-z0-9_-]{1,36}$`, unique among open orders only."""
_BINANCE_FUTURES = Venue(
    client_order_ids=_BINANCE_IDS,
    finds_by="clientOrderId",
    # Binance, change log of 2025-11: conditional orders are algo orders, with lists and ids of their own.
    orders=(View("algo", _TRIGGER, _TRIGGER, conditional=True), View()),
    page_size=1000,
    cancels_all="symbol",
    batch=10,  # cancel multiple orders: at most ten
    # Binance USDⓈ-M, auto-cancel all open orders: renewed by being sent again; 0 ends it
    timer=Timer(per_symbol="fapiPrivatePostCountdownCancelAll"),
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
    conditional_singly=True,
    verifies_conditional=True,
    told_under=("assets", "positions"),
    equity=("totalMarginBalance",),
    not_covered="COIN-M futures, options, spot, margin and funding wallets; portfolio margin, unless by options",
)
_BINANCE_COIN_FUTURES = replace(
    _BINANCE_FUTURES,
    timer=Timer(per_symbol="dapiPrivatePostCountdownCancelAll"),
    equity=(),  # told in each coin
    not_covered="USDⓈ-M futures, options, spot, margin and funding wallets; portfolio margin, unless by options",
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
    told_under=("balances", "userAssets"),
    not_covered="futures, options, margin, earn and funding wallets",
)
_BYBIT_IDS = ClientOrderIds(36, ALPHANUMERIC + "-_")
"""Bybit, place order, `orderLinkId`: at most 36 letters, digits, dashes, underscores; always unique."""
_BYBIT_ORDERS = ("privateGetV5OrderRealtime", ("result", "list"))
_OKX_ALGO = ("conditional", "oco", "trigger", "move_order_stop")
"""OKX, list of algo orders: each kind is asked for by itself."""
_OKX_ALGO_NOT_EVERYWHERE = ("chase", "iceberg", "twap", "smart_iceberg")
"""Kinds that came later or are going, so that a host of OKX's may not know one: then there is no order of it."""
_OKX_NO_SUCH_KIND = frozenset({"51000"})
"""OKX 51000: a parameter is wrong."""
_OKX = Venue(
    # OKX, place order, `clOrdId`: at most 32 letters and digits; refused twice (51016), for how long isn't said
    client_order_ids=ClientOrderIds(32, ALPHANUMERIC, unique=False),
    finds_by="clientOrderId",
    orders=(
        *(
            View(
                kind.replace("_", "-"),
                {"ordType": kind, **_TRIGGER},
                {"trailing": True} if kind == "move_order_stop" else _TRIGGER,
                conditional=True,
                absent=_OKX_NO_SUCH_KIND if kind in _OKX_ALGO_NOT_EVERYWHERE else frozenset(),
            )
            for kind in (*_OKX_ALGO, *_OKX_ALGO_NOT_EVERYWHERE)
        ),
        View(),
    ),
    pages=Pages.AFTER_ID,
    batch=20,  # cancel multiple orders: at most 20; ten of the algo orders
    timer=Timer(fires_at=("data", "0", "triggerTime"), now=("data", "0", "ts")),
    fills_by_symbol=True,  # else those of perpetuals alone
    transfers=("fetch_ledger",),
    transfers_page=100,  # OKX, bills, `limit`
    weights=Weights(open_orders=4, positions=2),
    told_under=("data", "details"),
    equity=("data", "0", "totalEq"),
    not_covered="balances, trading bots, copied trades, spread orders",
)
_BITGET_PRODUCTS = ("USDT-FUTURES", "USDC-FUTURES", "COIN-FUTURES")
_BITGET_POSITIONS = ("privateMixGetV2MixPositionAllPosition", ("data",))
_BITGET_PLANS = ("normal_plan", "profit_loss", "track_plan")
_NO_ACCOUNT_YET = frozenset({"USER_NOT_FOUND"})
"""Gate: an account of one settlement currency begins with the first transfer into it; until then this is its answer."""
VENUES: Mapping[str, Venue] = {
    "binanceusdm": _BINANCE_FUTURES,
    "binancecoinm": _BINANCE_COIN_FUTURES,
    "binance": _BINANCE_SPOT,
    "bybit": Venue(
        client_order_ids=_BYBIT_IDS,
        # Bybit, open orders: conditional ones are among them; without `settleCoin` ccxt asks for USDT alone, and of
        # inverse contracts and options all are told where none is asked for.
        orders=(
            View("", {"subType": "linear", "settleCoin": "USDT"}, line="linear USDT"),
            View("usdc", {"subType": "linear", "settleCoin": "USDC"}, line="linear USDC"),
            View("inverse", {"category": "inverse"}, raw=_BYBIT_ORDERS, line="inverse"),
            View("option", {"category": "option"}, raw=_BYBIT_ORDERS, line="option"),
        ),
        positions=(
            PositionView("linear USDT", {"subType": "linear", "settleCoin": "USDT"}),
            PositionView("linear USDC", {"subType": "linear", "settleCoin": "USDC"}),
            PositionView("inverse", {"subType": "inverse"}),
            PositionView("option", {"type": "option"}),
        ),
        pages=Pages.CURSOR,
        page_size=50,
        positions_page=200,
        cancels_all="symbol",
        batch=10,  # batch cancel: at most ten of linear ones, for unified accounts
        fills_by_symbol=True,  # else ccxt asks for those of linear contracts alone
        transfers=("fetch_ledger",),
        transfers_page=50,  # Bybit, transaction log, `limit`
        weights=Weights(open_orders=20, positions=20, cancel_all=50),
        told_under=("list", "coin"),
        equity=("result", "list", "0", "totalEquity"),
        not_covered="spot balances and loans of the unified account, spot orders, trading bots, the funding wallet",
    ),
    "okx": _OKX,
    "krakenfutures": Venue(
        # Kraken Futures, send order, `cliOrdId`: at most 100 characters; of letters and digits for certain
        client_order_ids=ClientOrderIds(100, ALPHANUMERIC + "-", unique=False),
        cancels_all="account",
        batch=50,
        timer=Timer(fires_at=("status", "triggerTime"), now=("status", "currentTime")),
        told_under=("openOrders", "openPositions"),
        equity=("accounts", "flex", "portfolioValue"),
        not_covered="balances, and everything of Kraken's spot exchange",
    ),
    "hyperliquid": Venue(
        # Hyperliquid, `cloid`: a number of 128 bits in hexadecimal, of which no readable one can be made
        client_order_ids=ClientOrderIds(0, "", unique=False),
        batch=50,
        market_orders=False,  # Hyperliquid, exchange endpoint: limit and trigger orders only
        timer=Timer(taken=(("status",), "ok")),
        weights=Weights(
            open_orders=20, positions=20
        ),  # Hyperliquid, rate limits: 2 for positions, of some ten exchanges
        told_under=("assetPositions", "balances"),
        equity=("marginSummary", "accountValue"),
        not_covered="spot balances, vaults, TWAP orders",
    ),
    "deribit": Venue(
        # Deribit, `label`: at most 64 characters, not unique
        client_order_ids=ClientOrderIds(64, ALPHANUMERIC + "-_", unique=False),
        id_key="label",
        # ccxt asks for one currency's orders, Bitcoin's unless told; this is the call for all.
        orders=(View(raw=("privateGetGetOpenOrders", ("result",))),),
        cancels_all="account",
        fills_by_symbol=True,  # else those of one currency
        told_under=("result",),
        not_covered="balances, other sub-accounts",
    ),
    "gate": Venue(
        # Gate, futures order, `text`: at most 28 characters behind `t-`
        client_order_ids=ClientOrderIds(28, ALPHANUMERIC + "_-.", unique=False),
        id_prefix="t-",
        orders=tuple(
            View(
                f"{settle}{' trigger' if conditional else ''}",
                {"settle": settle, **(_TRIGGER if conditional else {})},
                _TRIGGER if conditional else {},
                conditional=conditional,
                line=settle,
                absent=_NO_ACCOUNT_YET,
            )
            for conditional in (True, False)
            for settle in ("usdt", "btc")
        ),
        # Gate, list positions: 100 at most, those that are closed among them unless `holding` is asked for
        positions=tuple(
            PositionView(settle, {"settle": settle, "holding": True, "limit": 100}, absent=_NO_ACCOUNT_YET)
            for settle in ("usdt", "btc")
        ),
        pages=Pages.OFFSET,
        positions_page=100,
        cancels_all="symbol",
        fills_by_symbol=True,  # else those of one settlement currency
        weights=Weights(open_orders=4, positions=2),
        told_under=("balances",),  # beside lists that are the answer itself
        not_covered="delivery futures (an account of their own, `future`), options, spot and margin, trading bots",
    ),
    "kucoinfutures": Venue(
        # KuCoin Futures, `clientOid`: at most 40 characters, digits, letters, `_` and `-`
        client_order_ids=ClientOrderIds(40, ALPHANUMERIC + "_-", unique=False),
        # KuCoin, of unified accounts: conditional orders are the advanced ones
        orders=(View("stop", {**_TRIGGER, "orderFilter": "ADVANCED"}, _TRIGGER, conditional=True), View()),
        pages=Pages.NUMBER,
        page_size=50,
        cancels_all="symbol",
        weights=Weights(open_orders=8, positions=2),
        told_under=("items", "data"),
        equity=("data", "accountEquity"),
        # KuCoin, get account mode
        unified=UnifiedAccount("utaPrivateGetAccountMode", ("data", "selfAccountMode"), "UNIFIED"),
        not_covered="spot and margin wallets, trading bots",
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
                    line=product,
                )
                for product in _BITGET_PRODUCTS
                for plan in _BITGET_PLANS
            ),
            *(
                View(product, {"productType": product}, {"productType": product}, line=product)
                for product in _BITGET_PRODUCTS
            ),
        ),
        # ccxt asks for those of one margin coin, of which coin futures have many; the exchange needs none.
        positions=tuple(
            PositionView(product, {"productType": product}, _BITGET_POSITIONS if product == "COIN-FUTURES" else None)
            for product in _BITGET_PRODUCTS
        ),
        pages=Pages.BELOW_ID,
        cancels_all="symbol",
        batch=50,
        fills_by_symbol=True,
        weights=Weights(open_orders=24, positions=6),
        told_under=("entrustedList", "orderList", "list", "data", "assets"),
        # Bitget, account settings of unified accounts
        unified=UnifiedAccount("privateUtaGetV3AccountSettings"),
        inverse_in_coins=True,  # Bitget, place order, `size`: in the base coin
        not_covered="spot and margin wallets, copied trades, trading bots",
    ),
    "kraken": Venue(
        # Kraken, add order, `cl_ord_id`: 18 characters of free text
        client_order_ids=ClientOrderIds(18, ALPHANUMERIC, unique=False),
        cancels_all="account",
        timer=Timer(fires_at=("result", "triggerTime"), now=("result", "currentTime")),
        transfers=("fetch_deposits", "fetch_withdrawals"),
        told_under=("open", "result"),
        not_covered="Kraken's futures, and what is staked or in Earn",
    ),
    # Coinbase, cancel orders: by their ids, at most 100
    "coinbase": Venue(
        batch=100, told_under=("orders", "accounts", "data"), not_covered="futures and perpetuals, other portfolios"
    ),
}
"""By ccxt's names."""
OTHER = Venue(known=False, not_covered="whatever the exchange keeps apart and ccxt doesn't tell of: it has no entry")
"""What is taken for granted of an exchange that has no entry: nothing that would hurt if it were not so."""


def venue_of(exchange: str, market: str) -> Venue:
    """What is known of this exchange in this market."""
    if exchange == "binance" and market in ("swap", "future"):
        return replace(_BINANCE_FUTURES, options={**_BINANCE_FUTURES.options, "fetchMarkets": {"types": ["linear"]}})
    found = VENUES.get(exchange, OTHER)
    if exchange == "binance" and market == "margin":
        return replace(found, not_covered="futures, options, isolated margin, spot, earn and funding wallets")
    if exchange == "okx" and market in ("spot", "margin"):
        return replace(found, not_covered="positions in derivatives and on margin, earn and funding wallets")
    if exchange == "gate" and market == "future":
        return _gate_delivery(found)
    if market in ("spot", "margin") and exchange in ("bybit", "gate", "bitget"):
        # Their views above are those of derivatives; of spot there is one list, and one of conditional orders.
        views = (View("trigger", _TRIGGER, _TRIGGER, conditional=True), View())
        return replace(
            found,
            orders=views,
            positions=(PositionView(),),
            pages=Pages.ALL_AT_ONCE,
            equity=(),
            not_covered="derivatives, options, isolated margin, earn and funding wallets",
        )
    return found


def _gate_delivery(perpetuals: Venue) -> Venue:
    """Delivery futures are an account of their own, settled in USDT alone."""
    return replace(
        perpetuals,
        orders=tuple(view for view in perpetuals.orders if view.line == "usdt"),
        positions=(PositionView("usdt", {"settle": "usdt"}, absent=_NO_ACCOUNT_YET),),
        positions_page=0,
        not_covered="perpetuals (an account of their own, `swap`), options, spot and margin, trading bots",
    )
