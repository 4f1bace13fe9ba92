"""Answers in the shapes of exchanges that are not Binance: open orders, positions, a close and a cancel of each.

Written for these tests. The shapes are those of the exchanges' documentation, as ccxt keeps them beside its parsers and
among its static responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from breaker.orders import PositionSide

BTC = "BTC/USDT:USDT"
ETH = "ETH/USDT:USDT"
CALL = "BTC/USDC:USDC-260626-80000-C"


def market(symbol: str, market_id: str, **more: Any) -> dict[str, Any]:
    """A perpetual as ccxt has it."""
    base, _, rest = symbol.partition("/")
    quote, _, settle = rest.partition(":")
    return {
        "id": market_id,
        "symbol": symbol,
        "base": base,
        "quote": quote,
        "settle": settle,
        "baseId": base,
        "quoteId": quote,
        "settleId": settle,
        "type": "swap",
        "spot": False,
        "margin": False,
        "swap": True,
        "future": False,
        "option": False,
        "contract": True,
        "linear": quote == settle,
        "inverse": quote != settle,
        "subType": "linear" if quote == settle else "inverse",
        "active": True,
        "contractSize": "1",
        "precision": {"amount": "0.001", "price": "0.1"},
        "limits": {"amount": {"min": "0.001"}, "cost": {}, "price": {}, "leverage": {}},
        "info": {},
        **more,
    }


def option(symbol: str, market_id: str) -> dict[str, Any]:
    """An option as ccxt has it."""
    of_expiry = {"type": "option", "swap": False, "option": True, "linear": None, "inverse": None, "subType": None}
    return market(symbol.partition("-")[0], market_id, **of_expiry) | {"symbol": symbol}


@dataclass(frozen=True)
class Case:
    """One exchange: its markets, its answers by a part of the address or of the body, and what they say.

    Attributes:
        answers: the first whose words are all in the request answers it; `…` in them parts the words.
        orders: ids of the open orders, with how much is left of each.
        positions: quantity of each, by symbol and leg.
        close: which of the symbols is closed, and `closed_as` the order that the close becomes.
        reduces: what in the request keeps the close from turning the position over.
    """

    exchange: str
    markets: tuple[dict[str, Any], ...]
    answers: Mapping[str, Any]
    orders: Mapping[str, str]
    positions: Mapping[tuple[str, PositionSide | None], str]
    close: str = BTC
    closed_as: str = ""
    reduces: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def quantities(self) -> dict[tuple[str, PositionSide | None], Decimal]:
        return {key: Decimal(quantity) for key, quantity in self.positions.items()}


def _bybit(number: str, **more: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "orderType": "Limit",
        "orderLinkId": "",
        "orderId": number,
        "avgPrice": "",
        "stopOrderType": "",
        "orderStatus": "New",
        "price": "30000",
        "createdTime": "1757837618905",
        "updatedTime": "1757837618905",
        "positionIdx": 0,
        "timeInForce": "GTC",
        "side": "Buy",
        "triggerPrice": "",
        "leavesQty": "0.2",
        "cumExecQty": "0",
        "cumExecValue": "0",
        "cumExecFee": "0",
        "reduceOnly": False,
        "qty": "0.2",
        **more,
    }


def _bybit_list(*items: Any, cursor: str = "") -> dict[str, Any]:
    return {"retCode": 0, "retMsg": "OK", "result": {"nextPageCursor": cursor, "list": list(items)}, "time": 1}


def _bybit_position(symbol: str, side: str, size: str, index: int) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "side": side,
        "size": size,
        "positionIdx": index,
        "avgPrice": "31000",
        "positionValue": "3100",
        "markPrice": "30500",
        "leverage": "10",
        "liqPrice": "",
        "unrealisedPnl": "-1",
        "positionIM": "310",
        "positionMM": "15",
        "createdTime": "1757837618905",
        "updatedTime": "1757837618905",
    }


BYBIT = Case(
    "bybit",
    (
        market(BTC, "BTCUSDT"),
        market("SOL/USDC:USDC", "SOLPERP"),
        market("ETH/USD:ETH", "ETHUSD", precision={"amount": "1", "price": "0.05"}),
        option(CALL, "BTC-26JUN26-80000-C"),
    ),
    {
        "order/realtime…settleCoin=USDT": _bybit_list(
            _bybit("b-1"), _bybit("b-2", side="Sell", triggerPrice="28000", orderStatus="Untriggered", reduceOnly=True)
        ),
        "order/realtime…settleCoin=USDC": _bybit_list(_bybit("b-3", symbol="SOLPERP", qty="5", leavesQty="5")),
        "order/realtime…category=inverse": _bybit_list(_bybit("b-4", symbol="ETHUSD", qty="100", leavesQty="100")),
        "order/realtime…category=option": _bybit_list(
            _bybit("b-5", symbol="BTC-26JUN26-80000-C", qty="2", leavesQty="2", price="500")
        ),
        "position/list…category=option": _bybit_list(_bybit_position("BTC-26JUN26-80000-C", "Sell", "2", 0)),
        "position/list…settleCoin=USDT": _bybit_list(_bybit_position("BTCUSDT", "Sell", "0.1", 2)),
        "position/list…settleCoin=USDC": _bybit_list(_bybit_position("SOLPERP", "Buy", "5", 0)),
        "position/list…category=inverse": _bybit_list(
            _bybit_position("ETHUSD", "Sell", "100", 0), _bybit_position("ETHUSD", "", "0", 0)
        ),
        "order/create": {"retCode": 0, "retMsg": "OK", "result": {"orderId": "b-9", "orderLinkId": "incident-1"}},
        "order/cancel": {"retCode": 0, "retMsg": "OK", "result": {"orderId": "b-1", "orderLinkId": ""}},
        "user/query-api": {"retCode": 0, "result": {"unified": 0, "uta": 1}},
        "account/info": {"retCode": 0, "result": {"unifiedMarginStatus": 5}},
    },
    {f"b-1@{BTC}": "0.2", f"b-2@{BTC}": "0.2", "b-3@SOL/USDC:USDC@usdc": "5", "b-4@ETH/USD:ETH@inverse": "100"}
    | {f"b-5@{CALL}@option": "2"},
    {
        (CALL, None): "-2",
        (BTC, PositionSide.SHORT): "-0.1",
        ("SOL/USDC:USDC", None): "5",
        ("ETH/USD:ETH", None): "-100",
    },
    closed_as="b-9",
    reduces='"positionIdx":2',
)


def _okx(number: str, **more: Any) -> dict[str, Any]:
    return {
        "accFillSz": "0",
        "avgPx": "",
        "cTime": "1621910749815",
        "clOrdId": "",
        "fee": "0",
        "feeCcy": "USDT",
        "fillPx": "",
        "fillSz": "0",
        "instId": "BTC-USDT-SWAP",
        "instType": "SWAP",
        "ordId": number,
        "ordType": "limit",
        "posSide": "net",
        "px": "30000",
        "side": "buy",
        "state": "live",
        "sz": "3",
        "reduceOnly": "false",
        "tdMode": "cross",
        "uTime": "1621910749815",
        **more,
    }


def _okx_algo(number: str, **more: Any) -> dict[str, Any]:
    return {
        "algoId": number,
        "algoClOrdId": "",
        "cTime": "1621910749900",
        "instId": "BTC-USDT-SWAP",
        "instType": "SWAP",
        "ordType": "conditional",
        "posSide": "net",
        "side": "sell",
        "state": "live",
        "sz": "3",
        "slTriggerPx": "28000",
        "slOrdPx": "-1",
        "reduceOnly": "true",
        "tdMode": "cross",
        **more,
    }


def _okx_data(*items: Any) -> dict[str, Any]:
    return {"code": "0", "msg": "", "data": list(items)}


def _okx_position(instrument: str, amount: str, side: str) -> dict[str, Any]:
    return {
        "instId": instrument,
        "instType": "SWAP",
        "pos": amount,
        "posSide": side,
        "posCcy": "",
        "avgPx": "31000",
        "markPx": "30500",
        "mgnMode": "cross",
        "lever": "5",
        "imr": "10",
        "mmr": "1",
        "mgnRatio": "20",
        "margin": "",
        "liqPx": "",
        "notionalUsd": "915",
        "upl": "-1",
        "uplRatio": "-0.01",
        "cTime": "1627227626502",
        "uTime": "1627227626502",
    }


OKX = Case(
    "okx",
    (market(BTC, "BTC-USDT-SWAP", contractSize="0.01", precision={"amount": "1", "price": "0.1"}),),
    {
        "orders-algo-pending…ordType=conditional": _okx_data(_okx_algo("a-1")),
        "orders-algo-pending…ordType=move_order_stop": _okx_data(
            _okx_algo("a-2", ordType="move_order_stop", callbackRatio="0.05", slTriggerPx="", slOrdPx="")
        ),
        "orders-algo-pending…ordType=chase": _okx_data(_okx_algo("a-3", ordType="chase", slTriggerPx="", slOrdPx="")),
        "orders-algo-pending": _okx_data(),
        "orders-pending": _okx_data(_okx("o-1"), _okx("o-2", accFillSz="1", state="partially_filled")),
        "account/config": _okx_data({"posMode": "long_short_mode", "acctLv": "2"}),
        "account/positions": _okx_data(
            _okx_position("BTC-USDT-SWAP", "3", "long"), _okx_position("BTC-USDT-SWAP", "2", "short")
        ),
        "trade/order": _okx_data({"clOrdId": "incident1", "ordId": "o-9", "tag": "", "sCode": "0", "sMsg": ""}),
        "trade/batch-orders": _okx_data({"clOrdId": "incident1", "ordId": "o-9", "tag": "", "sCode": "0", "sMsg": ""}),
        "trade/cancel": _okx_data({"clOrdId": "", "ordId": "o-1", "sCode": "0", "sMsg": ""}),
    },
    {
        f"a-1@{BTC}@conditional": "3",
        f"a-2@{BTC}@move-order-stop": "3",
        f"a-3@{BTC}@chase": "3",
        f"o-1@{BTC}": "3",
        f"o-2@{BTC}": "2",
    },
    {(BTC, PositionSide.LONG): "3", (BTC, PositionSide.SHORT): "-2"},
    closed_as="o-9",
    reduces='"posSide":"long"',
    settings={"password": "passphrase"},
)

XBT = "BTC/USD:USD"
KRAKEN_FUTURES = Case(
    "krakenfutures",
    (market(XBT, "PF_XBTUSD", precision={"amount": "0.0001", "price": "1"}),),
    {
        "openorders": {
            "result": "success",
            "serverTime": "2026-03-02T06:10:31.955Z",
            "openOrders": [
                {
                    "order_id": "k-1",
                    "symbol": "PF_XBTUSD",
                    "side": "buy",
                    "orderType": "lmt",
                    "limitPrice": 30000,
                    "unfilledSize": 0.2,
                    "filledSize": 0,
                    "receivedTime": "2026-03-02T06:00:00.000Z",
                    "status": "untouched",
                    "reduceOnly": False,
                },
                {
                    "order_id": "k-2",
                    "symbol": "PF_XBTUSD",
                    "side": "sell",
                    "orderType": "stp",
                    "stopPrice": 28000,
                    "unfilledSize": 0.1,
                    "filledSize": 0,
                    "receivedTime": "2026-03-02T06:00:01.000Z",
                    "status": "untouched",
                    "triggerSignal": "mark",
                    "reduceOnly": True,
                },
            ],
        },
        "openpositions": {
            "result": "success",
            "openPositions": [
                {
                    "side": "short",
                    "symbol": "PF_XBTUSD",
                    "price": 31000,
                    "fillTime": "2026-03-02T05:00:00.000Z",
                    "size": 0.15,
                    "unrealizedFunding": 0,
                }
            ],
        },
        "sendorder": {
            "result": "success",
            "serverTime": "2026-03-02T06:10:31.955Z",
            "sendStatus": {
                "order_id": "k-9",
                "status": "placed",
                "receivedTime": "2026-03-02T06:10:31.954Z",
                "orderEvents": [
                    {
                        "type": "PLACE",
                        "reducedQuantity": None,
                        "order": {
                            "orderId": "k-9",
                            "cliOrdId": "incident-1",
                            "type": "lmt",
                            "symbol": "PF_XBTUSD",
                            "side": "buy",
                            "quantity": 0.15,
                            "filled": 0,
                            "limitPrice": 32000,
                            "reduceOnly": True,
                            "timestamp": "2026-03-02T06:10:31.954Z",
                            "lastUpdateTimestamp": "2026-03-02T06:10:31.954Z",
                        },
                    }
                ],
            },
        },
        "cancelorder": {
            "result": "success",
            "cancelStatus": {"status": "cancelled", "order_id": "k-1", "receivedTime": "2026-03-02T06:10:31.954Z"},
        },
    },
    {f"k-1@{XBT}": "0.2", f"k-2@{XBT}": "0.1"},
    {(XBT, None): "-0.15"},
    close=XBT,
    closed_as="k-9",
    reduces="reduceOnly=true",
    settings={"secret_key": "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU="},
)

HL = "BTC/USDC:USDC"
AAPL = "XYZ-AAPL/USDC:USDC"


def _hl_order(coin: str, number: int) -> dict[str, Any]:
    return {
        "coin": coin,
        "limitPx": "200.0",
        "oid": number,
        "origSz": "3.0",
        "sz": "3.0",
        "side": "B",
        "orderType": "Limit",
        "isTrigger": False,
        "triggerPx": "0.0",
        "triggerCondition": "N/A",
        "reduceOnly": False,
        "tif": "Gtc",
        "timestamp": 1704346468840,
        "cloid": None,
        "children": [],
    }


def _hl_state(*positions: tuple[str, str]) -> dict[str, Any]:
    return {
        "assetPositions": [
            {
                "type": "oneWay",
                "position": {
                    "coin": coin,
                    "szi": size,
                    "entryPx": "200.0",
                    "positionValue": "1000.0",
                    "leverage": {"type": "isolated", "value": 5, "rawUsd": "800.0"},
                    "liquidationPx": None,
                    "marginUsed": "200.0",
                    "maxLeverage": 10,
                    "returnOnEquity": "0.0",
                    "unrealizedPnl": "0.0",
                    "cumFunding": {"allTime": "0.0", "sinceChange": "0.0", "sinceOpen": "0.0"},
                },
            }
            for coin, size in positions
        ],
        "marginSummary": {"accountValue": "200.0"},
        "time": 1704346468838,
    }


HYPERLIQUID = Case(
    "hyperliquid",
    (
        market(HL, "0", baseId="0", base="BTC", baseName="BTC", precision={"amount": "0.00001", "price": "0.1"}),
        market(AAPL, "110000", baseId="110000", base="XYZ-AAPL", baseName="xyz:AAPL"),
    ),
    {
        "userRole": {"role": "user"},
        "perpDexs": [None, {"name": "xyz", "fullName": "XYZ"}, {"name": "flx", "fullName": "Felix"}],
        'frontendOpenOrders…"dex":"xyz"': [_hl_order("xyz:AAPL", 103)],
        'frontendOpenOrders…"dex":"flx"': [],
        'clearinghouseState…"dex":"xyz"': _hl_state(("xyz:AAPL", "5.0")),
        'clearinghouseState…"dex":"flx"': _hl_state(),
        "frontendOpenOrders": [
            {
                "coin": "BTC",
                "limitPx": "30000.0",
                "oid": 101,
                "origSz": "0.2",
                "sz": "0.15",
                "side": "B",
                "orderType": "Limit",
                "isTrigger": False,
                "triggerPx": "0.0",
                "triggerCondition": "N/A",
                "reduceOnly": False,
                "tif": "Gtc",
                "timestamp": 1704346468838,
                "cloid": None,
                "children": [],
            },
            {
                "coin": "BTC",
                "limitPx": "27000.0",
                "oid": 102,
                "origSz": "0.1",
                "sz": "0.1",
                "side": "A",
                "orderType": "Stop Market",
                "isTrigger": True,
                "triggerPx": "28000.0",
                "triggerCondition": "Price below 28000",
                "reduceOnly": True,
                "tif": None,
                "timestamp": 1704346468839,
                "cloid": None,
                "children": [],
            },
        ],
        "clearinghouseState": {
            "assetPositions": [
                {
                    "type": "oneWay",
                    "position": {
                        "coin": "BTC",
                        "szi": "-0.1",
                        "entryPx": "31000.0",
                        "positionValue": "3050.0",
                        "leverage": {"type": "cross", "value": 5},
                        "liquidationPx": None,
                        "marginUsed": "610.0",
                        "maxLeverage": 40,
                        "returnOnEquity": "0.0",
                        "unrealizedPnl": "50.0",
                        "cumFunding": {"allTime": "0.0", "sinceChange": "0.0", "sinceOpen": "0.0"},
                    },
                }
            ],
            "marginSummary": {"accountValue": "5000.0"},
            "time": 1704346468838,
        },
        '"type":"order"': {
            "status": "ok",
            "response": {
                "type": "order",
                "data": {"statuses": [{"filled": {"totalSz": "0.1", "avgPx": "30500.0", "oid": 109}}]},
            },
        },
        '"type":"cancel"': {
            "status": "ok",
            "response": {"type": "cancel", "data": {"statuses": ["success"]}},
        },
    },
    {f"101@{HL}": "0.15", f"102@{HL}": "0.1", f"103@{AAPL}@xyz": "3"},
    {(HL, None): "-0.1", (AAPL, None): "5"},
    close=HL,
    closed_as="109",
    reduces='"r":true',
    settings={
        "key_id": "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
        "secret_key": "0x" + "11" * 32,
    },
)

PERPETUAL = "BTC/USD:BTC"
LINEAR = "ETH/USDC:USDC"


def _deribit(number: str, **more: Any) -> dict[str, Any]:
    return {
        "time_in_force": "good_til_cancelled",
        "reduce_only": False,
        "price": 30000.0,
        "post_only": False,
        "order_type": "limit",
        "order_state": "open",
        "order_id": number,
        "last_update_timestamp": 1550657341322,
        "creation_timestamp": 1550657341322,
        "label": "",
        "instrument_name": "BTC-PERPETUAL",
        "filled_amount": 0,
        "direction": "buy",
        "average_price": 0,
        "amount": 2000,
        "api": True,
        **more,
    }


DERIBIT = Case(
    "deribit",
    (
        market(PERPETUAL, "BTC-PERPETUAL", contractSize="10", precision={"amount": "10", "price": "0.5"}),
        market(LINEAR, "ETH_USDC-PERPETUAL"),
    ),
    {
        "get_open_orders": {
            "jsonrpc": "2.0",
            "result": [
                _deribit("d-1"),
                _deribit("d-2", instrument_name="ETH_USDC-PERPETUAL", amount=3.0, filled_amount=1.0),
                _deribit(
                    "d-3", order_type="stop_market", order_state="untriggered", trigger_price=28000.0, direction="sell"
                ),
            ],
        },
        "get_positions": {
            "jsonrpc": "2.0",
            "result": [
                {
                    "instrument_name": "BTC-PERPETUAL",
                    "direction": "sell",
                    "size": -2000.0,
                    "size_currency": -0.06,
                    "average_price": 31000.0,
                    "mark_price": 30500.0,
                    "kind": "future",
                    "leverage": 50,
                    "initial_margin": 0.001,
                    "maintenance_margin": 0.0005,
                    "floating_profit_loss": 0.0,
                    "total_profit_loss": 0.0,
                },
                {
                    "instrument_name": "ETH_USDC-PERPETUAL",
                    "direction": "zero",
                    "size": 0.0,
                    "average_price": 0,
                    "mark_price": 2000.0,
                    "kind": "future",
                    "leverage": 50,
                    "initial_margin": 0,
                    "maintenance_margin": 0,
                },
            ],
        },
        "private/buy": {
            "jsonrpc": "2.0",
            "result": {
                "order": _deribit(
                    "d-9", order_type="market", price="market_price", label="incident-1", reduce_only=True
                ),
                "trades": [],
            },
        },
        "private/cancel": {"jsonrpc": "2.0", "result": _deribit("d-1", order_state="cancelled")},
    },
    {f"d-1@{PERPETUAL}": "2000", f"d-2@{LINEAR}": "2", f"d-3@{PERPETUAL}": "2000"},
    {(PERPETUAL, None): "-2000"},
    close=PERPETUAL,
    closed_as="d-9",
    reduces="reduce_only=true",
)


def _gate(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "contract": "BTC_USDT",
        "tif": "gtc",
        "is_reduce_only": False,
        "create_time": 1643950262.68,
        "price": "30000",
        "size": 20,
        "left": 15,
        "text": "t-engine-1",
        "fill_price": "30000",
        "status": "open",
        "is_close": False,
        **more,
    }


def _gate_position(mode: str, size: int) -> dict[str, Any]:
    return {
        "value": "305",
        "leverage": "0",
        "mode": mode,
        "contract": "BTC_USDT",
        "entry_price": "31000",
        "mark_price": "30500",
        "size": size,
        "maintenance_rate": "0.004",
        "initial_margin": "10",
        "maintenance_margin": "1",
        "unrealised_pnl": "1",
        "margin": "10",
        "liq_price": "0",
        "open_time": 1705034246,
        "update_time": 1705034246,
    }


GATE = Case(
    "gate",
    (
        market(BTC, "BTC_USDT", contractSize="0.0001", settleId="usdt", precision={"amount": "1", "price": "0.1"}),
        market(PERPETUAL, "BTC_USD", settleId="btc"),
    ),
    {
        "/futures/usdt/price_orders": [
            {
                "id": 71,
                "user": 1,
                "create_time": 1643945985,
                "status": "open",
                "trigger": {"strategy_type": 0, "price_type": 0, "price": "28000", "rule": 2, "expiration": 0},
                "initial": {
                    "contract": "BTC_USDT",
                    "size": -10,
                    "price": "0",
                    "tif": "ioc",
                    "text": "api",
                    "is_close": False,
                    "is_reduce_only": True,
                },
            }
        ],
        "/futures/btc/price_orders": [],
        "DELETE…/futures/usdt/orders": _gate(41, status="finished", finish_as="cancelled"),
        "POST…/futures/usdt/orders": _gate(
            49, size=-20, left=0, status="finished", finish_as="filled", text="t-incident-1", price="0", tif="ioc"
        ),
        "/futures/usdt/orders": [_gate(41)],
        "/futures/btc/orders": [_gate(42, contract="BTC_USD", size=5, left=5)],
        "/futures/usdt/positions": [_gate_position("dual_long", 20), _gate_position("dual_short", -10)],
        "/futures/btc/positions": [{**_gate_position("single", -5), "contract": "BTC_USD"}],
        "unified/unified_mode": {"mode": "classic"},
        "account/detail": {"user_id": 1, "key": {"mode": 1}},
    },
    {f"71@{BTC}@usdt trigger": "10", f"41@{BTC}@usdt": "15", f"42@{PERPETUAL}@btc": "5"},
    {(BTC, PositionSide.LONG): "20", (BTC, PositionSide.SHORT): "-10", (PERPETUAL, None): "-5"},
    closed_as="49",
    reduces='"reduce_only":true',
    settings={"options": {"unifiedAccount": False}},
)


def _kucoin(number: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "symbol": "XBTUSDTM",
        "type": "limit",
        "side": "buy",
        "price": "30000",
        "size": 20,
        "value": "600",
        "filledSize": 5,
        "filledValue": "150",
        "dealSize": 5,
        "dealValue": "150",
        "stop": "",
        "stopPrice": None,
        "timeInForce": "GTC",
        "postOnly": False,
        "reduceOnly": False,
        "isActive": True,
        "cancelExist": False,
        "status": "open",
        "clientOid": "engine-1",
        "createdAt": 1638578546031,
        "updatedAt": 1638578546031,
        **more,
    }


def _kucoin_items(*items: Any) -> dict[str, Any]:
    return {"code": "200000", "data": {"currentPage": 1, "pageSize": 50, "totalNum": len(items), "items": list(items)}}


KUCOIN_FUTURES = Case(
    "kucoinfutures",
    (market(BTC, "XBTUSDTM", contractSize="0.001", precision={"amount": "1", "price": "0.1"}),),
    {
        "account/mode": {"code": "200000", "data": {"selfAccountMode": "CLASSIC"}},
        "stopOrders": _kucoin_items(
            _kucoin(
                "q-2", side="sell", type="market", price=None, stop="down", stopPrice="28000", filledSize=0, dealSize=0
            )
        ),
        "DELETE…/orders/q-1": {"code": "200000", "data": {"cancelledOrderIds": ["q-1"]}},
        "POST…/orders": {"code": "200000", "data": {"orderId": "q-9", "clientOid": "incident-1"}},
        "/orders": _kucoin_items(_kucoin("q-1")),
        "/positions": {
            "code": "200000",
            "data": [
                {
                    "id": "615b",
                    "symbol": "XBTUSDTM",
                    "crossMode": True,
                    "currentQty": -20,
                    "currentCost": -620,
                    "isOpen": True,
                    "markPrice": 30500,
                    "markValue": -610,
                    "posCost": -620,
                    "posInit": 62,
                    "avgEntryPrice": 31000,
                    "liquidationPrice": 60000,
                    "unrealisedPnl": 10,
                    "realisedPnl": 0,
                    "openingTimestamp": 1638578546031,
                    "currentTimestamp": 1638578563580,
                    "positionSide": "BOTH",
                    "marginMode": "CROSS",
                }
            ],
        },
    },
    {f"q-2@{BTC}@stop": "20", f"q-1@{BTC}": "15"},
    {(BTC, None): "-20"},
    closed_as="q-9",
    reduces='"reduceOnly":true',
    settings={"password": "passphrase"},
)


def _bitget(number: str, **more: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "size": "0.2",
        "orderId": number,
        "clientOid": "engine1",
        "baseVolume": "0.05",
        "fee": "",
        "price": "30000",
        "priceAvg": "30000",
        "status": "partially_filled",
        "side": "buy",
        "force": "gtc",
        "totalProfits": "",
        "posSide": "net",
        "marginCoin": "USDT",
        "quoteVolume": "1500",
        "leverage": "10",
        "marginMode": "crossed",
        "enterPointSource": "API",
        "tradeSide": "",
        "posMode": "one_way_mode",
        "orderType": "limit",
        "orderSource": "normal",
        "reduceOnly": "NO",
        "cTime": "1700728077966",
        "uTime": "1700728077966",
        **more,
    }


def _bitget_orders(*items: Any) -> dict[str, Any]:
    return {"code": "00000", "msg": "success", "data": {"entrustedList": list(items) or None, "endId": ""}}


def _bitget_position(symbol: str, side: str, total: str, coin: str) -> dict[str, Any]:
    return {
        "marginCoin": coin,
        "symbol": symbol,
        "holdSide": side,
        "openDelegateSize": "0",
        "marginSize": "3",
        "available": total,
        "locked": "0",
        "total": total,
        "leverage": "20",
        "openPriceAvg": "31000",
        "marginMode": "crossed",
        "posMode": "one_way_mode",
        "unrealizedPL": "0.03",
        "liquidationPrice": "0",
        "keepMarginRate": "0.004",
        "markPrice": "30500",
        "marginRatio": "0.02",
        "cTime": "1700807507275",
    }


BITGET = Case(
    "bitget",
    (market(BTC, "BTCUSDT"), market("ETH/USDC:USDC", "ETHPERP"), market("BTC/USD:BTC", "BTCUSD")),
    {
        "orders-plan-pending…USDT-FUTURES…planType=normal_plan": _bitget_orders(
            {
                "planType": "normal_plan",
                "symbol": "BTCUSDT",
                "size": "0.1",
                "orderId": "g-2",
                "clientOid": "engine2",
                "price": "",
                "executePrice": "",
                "triggerPrice": "28000",
                "triggerType": "mark_price",
                "planStatus": "live",
                "side": "sell",
                "posSide": "net",
                "posMode": "one_way_mode",
                "marginCoin": "USDT",
                "marginMode": "crossed",
                "orderType": "market",
                "cTime": "1700728077967",
                "uTime": "1700728077967",
            }
        ),
        "orders-plan-pending…COIN-FUTURES…planType=profit_loss": _bitget_orders(
            {
                "planType": "pos_loss",
                "symbol": "BTCUSD",
                "size": "0.3",
                "orderId": "g-5",
                "clientOid": "engine5",
                "price": "",
                "executePrice": "",
                "triggerPrice": "28000",
                "triggerType": "mark_price",
                "planStatus": "live",
                "side": "sell",
                "posSide": "net",
                "posMode": "one_way_mode",
                "marginCoin": "BTC",
                "marginMode": "crossed",
                "orderType": "market",
                "cTime": "1700728077967",
                "uTime": "1700728077967",
            }
        ),
        "orders-plan-pending": _bitget_orders(),
        "orders-pending…COIN-FUTURES": _bitget_orders(_bitget("g-4", symbol="BTCUSD", marginCoin="BTC")),
        "all-position…COIN-FUTURES": {
            "code": "00000",
            "data": [_bitget_position("BTCUSD", "long", "0.3", "BTC")],
        },
        "orders-pending…USDT-FUTURES": _bitget_orders(_bitget("g-1")),
        "orders-pending…USDC-FUTURES": _bitget_orders(_bitget("g-3", symbol="ETHPERP", marginCoin="USDC")),
        "all-position…USDT-FUTURES": {
            "code": "00000",
            "data": [_bitget_position("BTCUSDT", "short", "0.1", "USDT")],
        },
        "all-position…USDC-FUTURES": {
            "code": "00000",
            "data": [_bitget_position("ETHPERP", "long", "2", "USDC")],
        },
        "place-order": {"code": "00000", "msg": "success", "data": {"orderId": "g-9", "clientOid": "incident1"}},
        "cancel-order": {"code": "00000", "msg": "success", "data": {"orderId": "g-1", "clientOid": "engine1"}},
    },
    {
        f"g-2@{BTC}@USDT-FUTURES normal_plan": "0.1",
        f"g-1@{BTC}@USDT-FUTURES": "0.15",
        "g-3@ETH/USDC:USDC@USDC-FUTURES": "0.15",
        f"g-4@{PERPETUAL}@COIN-FUTURES": "0.15",
        f"g-5@{PERPETUAL}@COIN-FUTURES profit_loss": "0.3",
    },
    {(BTC, None): "-0.1", ("ETH/USDC:USDC", None): "2", (PERPETUAL, None): "0.3"},
    closed_as="g-9",
    reduces='"reduceOnly":"YES"',
    settings={"password": "passphrase", "options": {"uta": False}},
)


def _coin_m_order(number: int, **more: Any) -> dict[str, Any]:
    return {
        "orderId": number,
        "symbol": "BTCUSD_PERP",
        "pair": "BTCUSD",
        "status": "NEW",
        "clientOrderId": "engine-1",
        "price": "30000",
        "avgPrice": "0.0",
        "origQty": "20",
        "executedQty": "5",
        "cumBase": "0.01",
        "timeInForce": "GTC",
        "type": "LIMIT",
        "reduceOnly": False,
        "closePosition": False,
        "side": "BUY",
        "positionSide": "BOTH",
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "origType": "LIMIT",
        "time": 1700728077966,
        "updateTime": 1700728077966,
        **more,
    }


BINANCE_COIN_M = Case(
    "binancecoinm",
    (
        market(
            PERPETUAL,
            "BTCUSD_PERP",
            contractSize="100",
            precision={"amount": "1", "price": "0.1", "base": "0.00000001", "quote": "0.00000001"},
            info={"orderTypes": ["LIMIT", "MARKET"]},
        ),
    ),
    {
        "openAlgoOrders": [
            {
                "algoId": 2146760,
                "clientAlgoId": "engine-2",
                "algoType": "CONDITIONAL",
                "orderType": "STOP_MARKET",
                "symbol": "BTCUSD_PERP",
                "side": "SELL",
                "positionSide": "BOTH",
                "timeInForce": "GTC",
                "quantity": "7",
                "algoStatus": "NEW",
                "triggerPrice": "28000",
                "price": "0",
                "closePosition": False,
                "reduceOnly": True,
                "createTime": 1700728077967,
                "updateTime": 1700728077967,
            }
        ],
        "openOrders": [_coin_m_order(11)],
        "positionRisk": [
            {
                "symbol": "BTCUSD_PERP",
                "positionAmt": "-7",
                "entryPrice": "31000",
                "breakEvenPrice": "31000",
                "markPrice": "30500",
                "unRealizedProfit": "0.0003",
                "liquidationPrice": "0",
                "leverage": "10",
                "maxQty": "100",
                "marginType": "cross",
                "isolatedMargin": "0",
                "isAutoAddMargin": "false",
                "positionSide": "BOTH",
                "notionalValue": "-0.0229",
                "isolatedWallet": "0",
                "updateTime": 1700728077966,
            }
        ],
        "DELETE…dapi/v1/order": _coin_m_order(11, status="CANCELED"),
        "POST…dapi/v1/order": _coin_m_order(19, type="MARKET", reduceOnly=True, clientOrderId="incident-1", price="0"),
    },
    {f"2146760@{PERPETUAL}@algo": "7", f"11@{PERPETUAL}": "15"},
    {(PERPETUAL, None): "-7"},
    close=PERPETUAL,
    closed_as="19",
    reduces="reduceOnly=true",
)

CASES = (BINANCE_COIN_M, BYBIT, OKX, KRAKEN_FUTURES, HYPERLIQUID, DERIBIT, GATE, KUCOIN_FUTURES, BITGET)
