"""Ask NautilusTrader's RiskEngine alone, and a guarded node, for the same orders; print what became of them as JSON.

Runs in NautilusTrader's own environment: `python nautilus_rules.py REDIS_URL`. Each case is a backtest of its own: a
position is opened, other orders are placed, trading is halted, and then the order that the case is about is sent.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import redis
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import QuoteTick
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide, TradingState, TriggerType
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy

from breaker import CircuitBreaker
from breaker.engines import BreakerActor, BreakerActorConfig
from breaker.gate import Gate
from breaker.keys import KILL_RUN, KILL_RUNS

ETH = TestInstrumentProvider.ethusdt_perp_binance()
BUY, SELL = OrderSide.BUY, OrderSide.SELL
Send = Callable[["Case"], None]


class Case(Strategy):  # type: ignore[misc]
    """Does one step at each quote."""

    def __init__(self, held: int, before: Send | None, send: Send, halt: Callable[[], None]) -> None:
        super().__init__()
        steps: list[Callable[[], None]] = [
            lambda: self.hold(held),
            lambda: self.do(before),
            halt,
            lambda: self.do(send),
        ]
        self.steps = iter(steps)
        self.refused: list[str] = []

    def on_start(self) -> None:
        self.subscribe_quote_ticks(ETH.id)

    def on_quote_tick(self, quote: Any) -> None:
        step = next(self.steps, None)
        if step is not None:
            step()

    def do(self, step: Send | None) -> None:
        if step is not None:
            step(self)

    def hold(self, quantity: int) -> None:
        if quantity:
            self.submit_order(self.market(BUY if quantity > 0 else SELL, abs(quantity)))

    def market(self, side: Any, quantity: int, reduce_only: bool = False) -> Any:
        return self.order_factory.market(ETH.id, side, ETH.make_qty(quantity), reduce_only=reduce_only)

    def limit(self, side: Any, quantity: int, **more: Any) -> Any:
        """Far from the market: it works on."""
        price = ETH.make_price(1000 if side == BUY else 9000)
        return self.order_factory.limit(ETH.id, side, ETH.make_qty(quantity), price, **more)

    def bracket(self, side: Any, quantity: int) -> Any:
        stop, target = (3000, 4000) if side == BUY else (4000, 3000)
        return self.order_factory.bracket(
            ETH.id, side, ETH.make_qty(quantity), sl_trigger_price=ETH.make_price(stop), tp_price=ETH.make_price(target)
        )

    def working(self) -> Any:
        return self.cache.orders_open()[0]

    def on_order_denied(self, event: Any) -> None:
        self.refused.append(event.reason)

    def on_order_modify_rejected(self, event: Any) -> None:
        self.refused.append(event.reason)


@dataclass(frozen=True)
class Row:
    what: str
    held: int
    send: Send
    before: Send | None = None


def _stop_entry(case: Case) -> None:
    order = case.order_factory.stop_market(
        ETH.id, BUY, ETH.make_qty(1), ETH.make_price(3501), emulation_trigger=TriggerType.BID_ASK
    )
    case.submit_order(order)


ROWS = [
    Row("buys 1 without a position", 0, lambda c: c.submit_order(c.market(BUY, 1))),
    Row("buys 1 more, long 10", 10, lambda c: c.submit_order(c.market(BUY, 1))),
    Row("sells 1 more, short 10", -10, lambda c: c.submit_order(c.market(SELL, 1))),
    Row("sells 4, long 10", 10, lambda c: c.submit_order(c.market(SELL, 4))),
    Row("sells 10, long 10", 10, lambda c: c.submit_order(c.market(SELL, 10))),
    Row("sells 15, long 10: through zero", 10, lambda c: c.submit_order(c.market(SELL, 15))),
    Row("buys 15, short 10: through zero", -10, lambda c: c.submit_order(c.market(BUY, 15))),
    Row("sells 15 reduce-only, long 10", 10, lambda c: c.submit_order(c.market(SELL, 15, reduce_only=True))),
    Row(
        "sells 10, long 10, while a sell of 10 works",
        10,
        lambda c: c.submit_order(c.market(SELL, 10)),
        lambda c: c.submit_order(c.limit(SELL, 10)),
    ),
    Row("an entry with its bracket, without a position", 0, lambda c: c.submit_order_list(c.bracket(BUY, 1))),
    Row("an entry with its bracket, long 10", 10, lambda c: c.submit_order_list(c.bracket(BUY, 1))),
    Row(
        "makes a working sell of 10 one of 15, long 10",
        10,
        lambda c: c.modify_order(c.working(), quantity=ETH.make_qty(15)),
        lambda c: c.submit_order(c.limit(SELL, 10)),
    ),
    Row(
        "moves a working buy nearer, without a position",
        0,
        lambda c: c.modify_order(c.working(), price=ETH.make_price(2000)),
        lambda c: c.submit_order(c.limit(BUY, 1)),
    ),
    Row(
        "makes a working buy of 2 one of 1, without a position",
        0,
        lambda c: c.modify_order(c.working(), quantity=ETH.make_qty(1)),
        lambda c: c.submit_order(c.limit(BUY, 2)),
    ),
    Row("the order emulator releases a buy, without a position", 0, lambda c: None, _stop_entry),
    Row("cancels a working buy", 0, lambda c: c.cancel_order(c.working()), lambda c: c.submit_order(c.limit(BUY, 1))),
]


def run(row: Row, guard: bool, halt: Callable[[BacktestEngine, Any], None], url: str) -> str:
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(Venue("BINANCE"), OmsType.NETTING, AccountType.MARGIN, [Money(10_000_000, USDT)])
    engine.add_instrument(ETH)
    actor = None
    if guard:
        gate = Gate(url, max_staleness=30, heartbeat=0.05)
        actor = BreakerActor(BreakerActorConfig(redis_url=url), engine.kernel, gate=gate)
        engine.add_actor(actor)
    case = Case(row.held, row.before, row.send, lambda: halt(engine, actor))
    engine.add_strategy(case)
    engine.add_data([quote(second, 3500 if second < 3 else 3502) for second in range(6)])
    engine.run()
    answer = "refused" if case.refused else "passes"
    engine.dispose()
    return answer


def quote(second: int, price: int) -> Any:
    at = (1_767_571_200 + second) * 1_000_000_000
    bid, ask, size = ETH.make_price(price), ETH.make_price(Decimal(price) + Decimal("0.5")), ETH.make_qty(1000)
    return QuoteTick(ETH.id, bid, ask, size, size, at, at)


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError("the gate did not follow")
        time.sleep(0.002)


def main(url: str) -> None:
    client = redis.Redis.from_url(url)
    breaker = CircuitBreaker(client)

    def trip(engine: BacktestEngine, actor: Any) -> None:
        breaker.trip("MANUAL")
        until(lambda: actor._guard.gate.status().reason == "TRIPPED")

    def kill(engine: BacktestEngine, actor: Any) -> None:
        client.set(f"{KILL_RUN}1", json.dumps({"scope": "global"}), ex=86_400)
        client.zadd(KILL_RUNS, {"1": time.time()})
        trip(engine, actor)
        until(lambda: actor._guard._watch.flattening)

    def reducing(engine: BacktestEngine, actor: Any) -> None:
        engine.kernel.risk_engine.set_trading_state(TradingState.REDUCING)

    def halted(engine: BacktestEngine, actor: Any) -> None:
        engine.kernel.risk_engine.set_trading_state(TradingState.HALTED)

    answers: dict[str, list[str]] = {}
    for row in ROWS:
        answers[row.what] = []
        for guard, halt in ((False, reducing), (True, trip), (False, halted), (True, kill)):
            client.flushdb()
            breaker.initialize_state()
            answers[row.what].append(run(row, guard, halt, url))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
