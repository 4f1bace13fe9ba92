"""Guard a NautilusTrader node or backtest: its RiskEngine's `TradingState` follows the breakers, and each command that
comes to the execution engine passes the gate.

The state alone would not do. While REDUCING the RiskEngine lets a node without a position open one, lets an exit grow
through zero, and never sees what the order emulator releases. So the gate is asked for each command, in the event loop
and without waiting: the bound is the gate's own, and no timer has a part in it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from nautilus_trader.common.actor import Actor
from nautilus_trader.common.config import ActorConfig
from nautilus_trader.core.uuid import UUID4
from nautilus_trader.execution.messages import ModifyOrder, SubmitOrder, SubmitOrderList
from nautilus_trader.model.enums import AccountType, TradingState
from nautilus_trader.model.events import (
    OrderAccepted,
    OrderDenied,
    OrderInitialized,
    OrderModifyRejected,
    OrderRejected,
    OrderSubmitted,
)
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Currency

from breaker.engines.kill_runs import KillRunsWatch
from breaker.engines.nautilus_orders import held_of, list_intent, modify_intent, order_intent, working_in
from breaker.engines.rules_feed import RulesFeed
from breaker.gate.decision import Permit, Reason
from breaker.gate.gate import Gate
from breaker.gate.intents import OrderIntent
from breaker.gate.quiet_period import QuietPeriodLimits
from breaker.gate.status import GateStatus
from breaker.redis_clients import open_redis
from breaker.rules import Rules

URL_VARIABLE = "BREAKER_REDIS_URL"
DENIED = "BREAKER"
"""How the reason of a denial begins that is the gate's."""
_FLATTENING = "a kill switch is flattening; what an engine closes meanwhile would race its closes"
_ANY = OrderIntent("ANY", "buy", 1)
_FIRST_READING = 2.0
_REDIS_TIMEOUT = 2.0
_TRADING = frozenset({Reason.OPEN, Reason.QUIET_PERIOD})
_ACTIVE = int(TradingState.ACTIVE)
_STRICTNESS = {TradingState.ACTIVE: 0, TradingState.REDUCING: 1, TradingState.HALTED: 2}


class BreakerActorConfig(ActorConfig, frozen=True, kw_only=True):  # type: ignore[misc, call-arg]
    """What `BreakerActor` needs to know.

    Attributes:
        redis_url: Where the breakers' state is; `BREAKER_REDIS_URL` unless given.
        scopes: What the gate watches beside `global`; `strategy:{strategy id}` halts one strategy alone.
        max_staleness: Seconds after a trip from which no command that adds risk reaches the execution engine.
        normal_quantity: The normal size of an order by instrument id (`*` for any other), of which the quiet period
            allows a part.
        rules_scope: Whose automatic rules are told of equity and rejections; None for nobody's.
        equity_currency: The currency in which the account is valued; without it no equity is told.
        equity_every: Seconds between two readings of equity, by the node's clock.
    """

    redis_url: str | None = None
    scopes: tuple[str, ...] = ()
    max_staleness: float = 0.2
    normal_quantity: dict[str, str] | None = None
    rules_scope: str | None = None
    equity_currency: str | None = None
    equity_every: float = 5.0


class BreakerActor(Actor):  # type: ignore[misc]
    """Guards the node that it is made with, from then on, before the first strategy starts.

    Args:
        config: See there.
        kernel: The node's: `node.kernel`, or `engine.kernel` of a backtest.
        rules: The automatic rules to tell; made of `rules_scope`, with the default limits, unless given.
        gate: For another backend, such as `shm`; made of the configuration unless given. It is closed with the node.

    Raises:
        ValueError: no address is given.
        InvalidInput: a scope or the address makes no sense.

    Example:
        >>> node = TradingNode(config)  # doctest: +SKIP
        >>> node.trader.add_actor(BreakerActor(BreakerActorConfig(redis_url=url), node.kernel))  # doctest: +SKIP
    """

    def __init__(
        self, config: BreakerActorConfig, kernel: Any, rules: Rules | None = None, gate: Gate | None = None
    ) -> None:
        super().__init__(config)
        self._guard = _NodeGuard(config, kernel, rules, gate)

    def on_start(self) -> None:
        """The node starts."""
        guard, config = self._guard, self.config
        guard.start()
        self.msgbus.subscribe(topic="events.order.*", handler=guard.hear)
        if config.equity_currency is not None:
            self.clock.set_timer(
                "breaker-equity", timedelta(seconds=config.equity_every), callback=lambda _: self._tell_equity()
            )

    def on_stop(self) -> None:
        """The node stops; it stays guarded, since strategies may still send."""
        self.msgbus.unsubscribe(topic="events.order.*", handler=self._guard.hear)
        if "breaker-equity" in self.clock.timer_names:
            self.clock.cancel_timer("breaker-equity")

    def on_dispose(self) -> None:
        """The node ends. From then on nothing that adds risk passes."""
        self._guard.close()

    def _tell_equity(self) -> None:
        equity = equity_of(self.cache, self.portfolio, self.config.equity_currency)
        if equity is not None:
            self._guard.feed.equity(equity, currency=self.config.equity_currency)


class _NodeGuard:
    """Stands at the two endpoints that commands are sent to, and in front of the engines behind them."""

    def __init__(self, config: BreakerActorConfig, kernel: Any, rules: Rules | None, gate: Gate | None) -> None:
        url = config.redis_url or os.environ.get(URL_VARIABLE)
        if not url:
            raise ValueError(
                f"The node is not guarded: its breaker's Redis is not known. Give redis_url, or set {URL_VARIABLE}."
            )
        self._risk, self._execution = kernel.risk_engine, kernel.exec_engine
        self._bus, self._cache, self._clock = kernel.msgbus, kernel.cache, kernel.clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._redis = open_redis(url, timeout=_REDIS_TIMEOUT)
        if rules is None and config.rules_scope is not None:
            rules = Rules(self._redis, config.rules_scope)
        self.feed, self._tells = RulesFeed(rules, "nautilus"), rules is not None
        self._mine = self._theirs = TradingState(self._risk.trading_state)
        self._permits: dict[Any, Permit] = {}
        self._watch = KillRunsWatch(url, config.scopes, lambda _: self._soon())
        self.gate = _gate_of(config, url) if gate is None else gate
        self.gate.on_change(self._changed)
        self._stand_at("RiskEngine.execute", self._risk.execute, self._to_risk)
        self._stand_at("ExecEngine.execute", self._execution.execute, self._to_execution)
        self._changed(self.gate.status())
        atexit.register(self.close)

    def start(self) -> None:
        """From now on changes are handed to the node's event loop; a backtest has none, and looks at each command."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self.gate.wait_until_open(_FIRST_READING)
        self._keep_state()

    def close(self) -> None:
        atexit.unregister(self.close)
        self._loop = None
        self._watch.close()
        self.gate.close()
        self.feed.close()
        self._redis.close()

    def hear(self, event: Any) -> None:
        """An order's event: by then the cache has it, so that it needn't count twice."""
        if isinstance(event, OrderInitialized) or not (self._permits or self._tells):
            return
        permit = self._permits.pop(event.client_order_id, None)
        if permit is not None:
            self.gate.settle(permit)
        if isinstance(event, OrderSubmitted):
            self.feed.order_sent("submit_order")
        elif isinstance(event, OrderAccepted):
            self.feed.order_accepted()
        elif isinstance(event, OrderRejected) or (isinstance(event, OrderDenied) and not _is_halt(event.reason)):
            self.feed.order_rejected(event.reason)

    # --- the endpoints ------------------------------------------------------------------------------------------------

    def _stand_at(self, endpoint: str, behind: Callable[[Any], None], guard: Callable[[Any], None]) -> None:
        self._bus.deregister(endpoint, behind)
        self._bus.register(endpoint, guard)

    def _to_risk(self, command: Any) -> None:
        self._keep_state()
        self._risk.execute(command)

    def _to_execution(self, command: Any) -> None:
        problem = self._why_not(command)
        if problem is None:
            self._execution.execute(command)
        else:
            self._deny(command, f"{DENIED}: {problem}")

    def _why_not(self, command: Any) -> str | None:
        """None for what may be sent. Cancels and queries always may."""
        if self.gate.is_open and self.gate.check(_ANY):
            return None
        if isinstance(command, SubmitOrder):
            intent: Any = order_intent(command.order)
            names: Sequence[Any] = [command.order.client_order_id]
        elif isinstance(command, SubmitOrderList):
            intent = list_intent(command.order_list.orders)
            names = [order.client_order_id for order in command.order_list.orders]
        elif isinstance(command, ModifyOrder):
            order = self._cache.order(command.client_order_id)
            if order is None:
                return None  # the engine says so itself, and sends nothing
            intent, names = modify_intent(command, order), [command.client_order_id]
        else:
            return None
        if self._watch.flattening:
            return _FLATTENING
        decision = self.gate.check(intent, held_of(self._cache), working_in(self._cache))
        if decision.permit is None:
            return decision.sentence
        if decision.permit.reservation:
            self._permits.update(dict.fromkeys(names, decision.permit))
        return None

    def _deny(self, command: Any, reason: str) -> None:
        if isinstance(command, ModifyOrder):
            self._reject_change(command, reason)
            return
        orders = [command.order] if isinstance(command, SubmitOrder) else command.order_list.orders
        for order in orders:
            if not self._cache.order_exists(order.client_order_id):
                self._cache.add_order(order, command.position_id, command.client_id)
            denied = OrderDenied(
                trader_id=order.trader_id,
                strategy_id=order.strategy_id,
                instrument_id=order.instrument_id,
                client_order_id=order.client_order_id,
                reason=reason,
                event_id=UUID4(),
                ts_init=self._clock.timestamp_ns(),
            )
            self._bus.send(endpoint="ExecEngine.process", msg=denied)

    def _reject_change(self, command: Any, reason: str) -> None:
        order, now = self._cache.order(command.client_order_id), self._clock.timestamp_ns()
        rejected = OrderModifyRejected(
            trader_id=order.trader_id,
            strategy_id=order.strategy_id,
            instrument_id=order.instrument_id,
            client_order_id=order.client_order_id,
            venue_order_id=order.venue_order_id,
            account_id=order.account_id,
            reason=reason,
            event_id=UUID4(),
            ts_event=now,
            ts_init=now,
        )
        self._bus.send(endpoint="ExecEngine.process", msg=rejected)

    # --- the state ----------------------------------------------------------------------------------------------------

    def _changed(self, status: GateStatus) -> None:
        """In a thread of the gate's."""
        self._watch.look(status.reason not in _TRADING)
        self._soon()

    def _soon(self) -> None:
        """From any thread: the RiskEngine is told in the node's own."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._keep_state)

    def _keep_state(self) -> None:
        """A state that somebody else has set stays, as long as it is the stricter one."""
        current = self._risk.trading_state
        if current == self._mine == _ACTIVE and self.gate.is_open:
            return
        if current != self._mine:
            self._theirs = TradingState(current)
        wanted = max(self._wanted(), self._theirs, key=_STRICTNESS.__getitem__)
        if wanted != current:
            self._risk.set_trading_state(wanted)
        self._mine = wanted

    def _wanted(self) -> TradingState:
        if self.gate.is_open or self.gate.status().reason in _TRADING:
            return TradingState.ACTIVE
        return TradingState.HALTED if self._watch.flattening else TradingState.REDUCING


def _gate_of(config: BreakerActorConfig, url: str) -> Gate:
    quantities = {name: Decimal(quantity) for name, quantity in (config.normal_quantity or {}).items()}
    limits = QuietPeriodLimits(normal_quantity=quantities)
    return Gate(url, scopes=config.scopes, max_staleness=config.max_staleness, quiet_limits=limits)


def equity_of(cache: Any, portfolio: Any, currency: str) -> Decimal | None:
    """What the node's accounts are worth in one currency: its balance, and what is open in that currency.

    A cash account's positions count at their value, any other account's at their profit. What is in other currencies
    does not count.

    Args:
        cache: The node's.
        portfolio: The node's.
        currency: Such as `USDT`.

    Returns:
        The worth; None where there is no account yet, or a price is missing.
    """
    unit, worth = Currency.from_str(currency), None
    for account in cache.accounts():
        total = account.balance_total(unit)
        if total is None:
            continue
        cash = account.type == AccountType.CASH
        of_open = (portfolio.net_exposures if cash else portfolio.unrealized_pnls)(Venue(account.id.get_issuer()))
        if of_open is None:
            return None
        open_ = of_open.get(unit)
        worth = (worth or Decimal(0)) + total.as_decimal() + (Decimal(0) if open_ is None else open_.as_decimal())
    return worth


def _is_halt(reason: str) -> bool:
    """Whether a denial is a halt's, which no rule needs to hear of."""
    return reason.startswith(DENIED) or "TradingState" in reason
