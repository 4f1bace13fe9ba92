"""Say of each venue which timer of its own cancels orders when nobody is there any more, as its documentation has it.

The adapters do the asking; this is what they, `breaker safety`, `breaker doctor` and the documentation go by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NONE = "has no timer of its own: when everything here is gone, its orders stay where they are"


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueTimer:
    """One venue's own timer. `shortest` and `longest` are seconds.

    Attributes:
        source: The page of the venue's documentation.
        needs: What has to be so before the venue takes it; empty where nothing has.
        covers: What it cancels when it fires, and what not.
        advice: What the venue recommends, or what else is to be known of its time.
        per_symbol: There is one for each symbol, armed for those that have orders or positions.
        cancels_stops: It takes resting protective stops too, so that it has to be asked for twice.
        off_after_firing: It protects nothing after it has fired, and a person or a reset arms it again.
        by_request: It is renewed by requests; otherwise by an engine's own connection, which nobody else can keep.
        exists: Whether the venue has one at all.
    """

    venue: str
    name: str = ""
    shortest: float = 1.0
    longest: float = math.inf
    advice: str = ""
    covers: str = ""
    needs: str = ""
    per_symbol: bool = False
    cancels_stops: bool = False
    off_after_firing: bool = False
    source: str = ""
    by_request: bool = True
    exists: bool = True

    def unfit(self, timeout: float, *, may_cancel_stops: bool) -> str:
        """Why a timer of so many seconds can't be had here, in words; empty where it can."""
        if not self.exists:
            return f"{self.venue} {NONE}"
        if not self.by_request:
            return (
                f"the timer of {self.venue} goes by an engine's own connection, so that only the engine can set it up; "
                f"it needs {self.needs}"
            )
        if not self.shortest <= timeout <= self.longest:
            return f"{self.venue} takes {_span(self.shortest, self.longest)}, not {timeout:g} s"
        if self.cancels_stops and not may_cancel_stops:
            return (
                f"the timer of {self.venue} takes protective stops too, so it is off until "
                "safety_net_cancels_stops = true says that this is wanted"
            )
        return ""


_BINANCE_FUTURES = "https://developers.binance.com/docs/derivatives"
_PER_SYMBOL = (
    "the ordinary orders of one symbol each, not conditional ones; a symbol that is first traded after a renewal is "
    "covered from the next on"
)
_TIMERS = (
    VenueTimer(venue="Alpaca", exists=False),
    VenueTimer(venue="Interactive Brokers", exists=False),
    VenueTimer(venue="Binance spot", exists=False),
    VenueTimer(
        venue="Binance USDⓈ-M",
        name="countdownCancelAll",
        advice="120 s, renewed each 30 s; not too short",
        covers=_PER_SYMBOL,
        per_symbol=True,
        source=f"{_BINANCE_FUTURES}/usds-margined-futures/trade/rest-api/Auto-Cancel-All-Open-Orders",
    ),
    VenueTimer(
        venue="Binance COIN-M",
        name="countdownCancelAll",
        advice="120 s, renewed each 30 s; not too short",
        covers=_PER_SYMBOL,
        per_symbol=True,
        source=f"{_BINANCE_FUTURES}/coin-margined-futures/trade/rest-api/Auto-Cancel-All-Open-Orders",
    ),
    VenueTimer(
        venue="Kraken",
        name="CancelAllOrdersAfter",
        longest=86_399.0,
        advice="60 s, renewed each 15 to 30 s",
        covers="every order of the account, protective stops too; also when the venue's engine comes back from "
        "maintenance, so that it is disarmed before",
        cancels_stops=True,
        off_after_firing=True,
        source="https://docs.kraken.com/api-reference/trading/cancel-all-orders-after-x",
    ),
    VenueTimer(
        venue="Kraken Futures",
        name="cancelallordersafter",
        longest=86_399.0,
        advice="60 s, renewed each 15 to 20 s",
        covers="every order of the account, protective stops too",
        cancels_stops=True,
        off_after_firing=True,
        source="https://docs.kraken.com/api-reference/order-management/dead-mans-switch",
    ),
    VenueTimer(
        venue="Bybit",
        name="disconnected-cancel-all (DCP)",
        shortest=3.0,
        longest=300.0,
        advice="in effect about 10 s after it is set",
        covers="the orders of one product (derivatives, options or spot), counted from when the last private stream "
        "that has subscribed to `dcp` is silent",
        needs="the account's manager at Bybit to enable it, and an engine's private stream that has subscribed to "
        "`dcp`; a request can set its time, and without that stream it does nothing",
        by_request=False,
        source="https://bybit-exchange.github.io/docs/v5/order/dcp",
    ),
    VenueTimer(
        venue="OKX",
        name="cancel-all-after",
        shortest=10.0,
        longest=120.0,
        advice="at most one request a second",
        covers="every pending order of the account; of its algo orders the documentation says nothing",
        source="https://www.okx.com/docs-v5/en/#order-book-trading-trade-post-cancel-all-after",
    ),
    VenueTimer(
        venue="Deribit",
        name="cancel on disconnect",
        shortest=10.0,
        longest=600.0,
        advice="its heartbeat says how soon a lost connection is noticed",
        covers="the orders of the connection that is lost, and no other's; nothing at a logout in order",
        needs="the engine to ask for it on the stream that it sends its orders by",
        by_request=False,
        source="https://docs.deribit.com/api-reference/session-management/private-enable_cancel_on_disconnect",
    ),
    VenueTimer(
        venue="Hyperliquid",
        name="scheduleCancel",
        shortest=5.0,
        advice="it fires ten times a day at most, and renewals don't count",
        covers="every order of the account, protective stops too",
        needs="a traded volume of 1,000,000 USD",
        cancels_stops=True,
        source="https://hyperliquid.gitbook.io/hyperliquid-docs/for-developers/api/exchange-endpoint",
    ),
)
_BY_VENUE = {timer.venue: timer for timer in _TIMERS}
_EXCHANGES = {
    "binance": "Binance spot",
    "binanceusdm": "Binance USDⓈ-M",
    "binancecoinm": "Binance COIN-M",
    "kraken": "Kraken",
    "krakenfutures": "Kraken Futures",
    "bybit": "Bybit",
    "okx": "OKX",
    "deribit": "Deribit",
    "hyperliquid": "Hyperliquid",
}
"""By the names that ccxt gives them."""
_DERIVATIVES = frozenset({"swap", "future"})


def timers() -> tuple[VenueTimer, ...]:
    """All that are known, in the order of the documentation."""
    return _TIMERS


def timer_of(adapter: str, exchange: str = "", market: str = "") -> VenueTimer | None:
    """The timer of an account's venue, by its settings; None where nothing is known of that venue.

    Its adapter says whether it offers one.
    """
    if adapter == "alpaca":
        return _BY_VENUE["Alpaca"]
    if adapter == "ib":
        return _BY_VENUE["Interactive Brokers"]
    if adapter != "ccxt":
        return None
    if exchange == "binance" and market in _DERIVATIVES:
        exchange = "binanceusdm"
    return _BY_VENUE.get(_EXCHANGES.get(exchange, ""))


def _span(shortest: float, longest: float) -> str:
    return f"{shortest:g} to {longest:g} s" if math.isfinite(longest) else f"{shortest:g} s and more"
