"""The guard of a freqtrade strategy, beside a bot that has only freqtrade's documented hooks.

The real bot, in dry-run and live against the paper exchange: test_freqtrade_bot.py.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.engines import BotSettings, GuardedStrategy
from breaker.gate import Gate
from breaker.gate.lease import ScopeState
from breaker.limits import Limits
from breaker.rules import Rules
from tests.breaker.engines.freqtrade_stand_in import (
    DependencyException,
    Exchange,
    IStrategy,
    OperationalException,
    TemporaryError,
)
from tests.helpers import eventually


class Plain(GuardedStrategy, IStrategy):
    """Overrides no hook."""

    def breaker_gate(self, settings: BotSettings) -> Gate:
        """One that no busy machine makes stale."""
        return Gate(settings.redis_url, scopes=settings.scopes, max_staleness=30, heartbeat=0.05)


class Own(Plain):
    """Overrides hooks, and calls `super()` in none."""

    wants = True
    problem: Exception | None = None
    adds: Any = 50.0
    price: float | None = 101.0
    vetoes: float | None = -1.0

    def custom_stake_amount(self, *args: Any, **kwargs: Any) -> Any:
        return kwargs["proposed_stake"] if self.vetoes == -1.0 else self.vetoes

    def confirm_trade_entry(self, *args: Any, **kwargs: Any) -> bool:
        if self.problem is not None:
            raise self.problem
        return self.wants

    def adjust_trade_position(self, *args: Any, **kwargs: Any) -> Any:
        return self.adds

    def adjust_order_price(self, *args: Any, **kwargs: Any) -> float | None:
        return self.price


class Limited(Plain):
    """Brings rules of its own."""

    def breaker_rules(self, client: redis.Redis, scope: str) -> Rules:
        return Rules(client, scope, limits=Limits(consecutive_rejections=3))


@pytest.fixture(autouse=True)
def _freqtrade(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, dict[str, Any]] = {
        "freqtrade": {},
        "freqtrade.exceptions": {
            "DependencyException": DependencyException,
            "OperationalException": OperationalException,
            "TemporaryError": TemporaryError,
        },
        "freqtrade.persistence": {"Trade": SimpleNamespace(get_trades_proxy=lambda is_open: [])},
    }
    for name, held in modules.items():
        module = ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client, quiet_period=3600, reset_interval=0)
    breaker.initialize_state()
    yield breaker
    breaker.close()


Start = Callable[..., Any]


@pytest.fixture
def start(cb: CircuitBreaker, redis_server: Any) -> Iterator[Start]:
    """A bot's strategy, started; and its exchange."""
    started: list[Any] = []

    def start(kind: type[Any], **settings: Any) -> Any:
        section = {"redis_url": redis_server.url, **settings}
        config = {"stake_currency": "USDT", "exchange": {"name": "binance"}, "runmode": "dry_run", "breaker": section}
        strategy = kind(config)
        started.append(strategy)
        strategy.dp = SimpleNamespace(_exchange=Exchange(), ticker=lambda pair: {"last": 100.0})
        strategy.wallets = SimpleNamespace(get_total=lambda currency: 10_000.0)
        strategy.bot_start()
        return strategy

    yield start
    for strategy in started:
        strategy.ft_bot_cleanup()


def trip(cb: CircuitBreaker, strategy: Any) -> None:
    cb.trip("MANUAL")
    eventually(lambda: ScopeState.TRIPPED in strategy._guard._gate.status().scopes.values())


def reset(cb: CircuitBreaker, strategy: Any) -> None:
    cb.reset(reset_by="test")
    eventually(lambda: ScopeState.QUIET_PERIOD in strategy._guard._gate.status().scopes.values())


def enters(strategy: Any, amount: float = 1.0) -> bool:
    answer: bool = strategy.confirm_trade_entry(
        pair="BTC/USDT",
        order_type="market",
        amount=amount,
        rate=100.0,
        time_in_force="GTC",
        current_time=datetime.now(UTC),
        entry_tag=None,
        side="long",
    )
    return answer


def staked(strategy: Any, stake: float = 100.0) -> float:
    answer: float = strategy.custom_stake_amount(
        pair="BTC/USDT",
        current_time=datetime.now(UTC),
        current_rate=100.0,
        proposed_stake=stake,
        min_stake=1.0,
        max_stake=1000.0,
        leverage=1.0,
        entry_tag=None,
        side="long",
    )
    return answer


TRADE = SimpleNamespace(pair="BTC/USDT", is_short=False, leverage=1.0)
ORDER = SimpleNamespace(safe_remaining=1.0, safe_price=100.0)


def adjusted(strategy: Any) -> Any:
    return strategy.adjust_trade_position(trade=TRADE, current_entry_rate=100.0)


def repriced(strategy: Any, *, is_entry: bool = True) -> float | None:
    price: float | None = strategy.adjust_order_price(
        trade=TRADE, order=ORDER, current_order_rate=100.0, side="long", is_entry=is_entry
    )
    return price


def sends(strategy: Any, side: str = "buy", amount: float = 1.0, **more: Any) -> None:
    strategy.dp._exchange.create_order(
        pair="BTC/USDT", ordertype="market", side=side, amount=amount, rate=100.0, **more
    )


def times_out(strategy: Any) -> bool:
    answer: bool = strategy.check_entry_timeout(
        pair="BTC/USDT", trade=TRADE, order=ORDER, current_time=datetime.now(UTC)
    )
    return answer


def test_while_open_everything_is_the_strategys_own(start: Start) -> None:
    strategy = start(Own)
    assert enters(strategy)
    assert staked(strategy) == 100.0
    assert adjusted(strategy) == 50.0
    assert repriced(strategy) == 101.0
    assert not times_out(strategy)
    sends(strategy)
    strategy.wants = False
    assert not enters(strategy)
    assert len(strategy.dp._exchange.sent) == 1


@pytest.mark.parametrize("nothing", [None, 0.0])
def test_a_stake_of_nothing_stays_the_strategys_veto(start: Start, nothing: float | None) -> None:
    """freqtrade would take the stake that it proposed itself if the hook raised."""
    strategy = start(Own)
    strategy.vetoes = nothing
    assert staked(strategy) == nothing


@pytest.mark.parametrize("kind", [Plain, Own])
def test_while_tripped_no_hook_lets_an_entry_through(start: Start, cb: CircuitBreaker, kind: type[Any]) -> None:
    strategy = start(kind)
    trip(cb, strategy)
    assert not enters(strategy)
    assert adjusted(strategy) is None
    assert repriced(strategy) == 100.0
    with pytest.raises(
        DependencyException, match=r"The entry into BTC/USDT was not sent. The global breaker is TRIPPED"
    ):
        sends(strategy)
    assert strategy.dp._exchange.sent == []


def test_while_tripped_every_exit_passes(start: Start, cb: CircuitBreaker) -> None:
    strategy = start(Own)
    trip(cb, strategy)
    strategy.adds = (-50.0, "less")
    assert adjusted(strategy) == (-50.0, "less")
    assert repriced(strategy, is_entry=False) == 101.0
    sends(strategy, "sell")
    strategy.config["trading_mode"] = "futures"
    sends(strategy, "buy", reduceOnly=True)
    with pytest.raises(DependencyException):
        sends(strategy, "sell")
    assert [order["side"] for order in strategy.dp._exchange.sent] == ["sell", "buy"]


def test_a_hook_that_fails_is_no_yes_while_tripped(start: Start, cb: CircuitBreaker) -> None:
    strategy = start(Own)
    strategy.problem = RuntimeError("no")
    with pytest.raises(RuntimeError):
        enters(strategy)
    trip(cb, strategy)
    assert not enters(strategy)


def test_an_entry_that_a_hook_let_through_is_stopped_at_the_door_by_a_trip(start: Start, cb: CircuitBreaker) -> None:
    strategy = start(Plain)
    assert enters(strategy)
    trip(cb, strategy)
    with pytest.raises(DependencyException):
        sends(strategy)


def test_an_entry_withdraws_itself_once_tripped(start: Start, cb: CircuitBreaker) -> None:
    strategy = start(Plain)
    trip(cb, strategy)
    assert times_out(strategy)


def test_all_pairs_are_locked_while_tripped_and_until_the_reset(start: Start, cb: CircuitBreaker) -> None:
    strategy = start(Plain)
    strategy.locks.add("*")  # left by the bot before this one
    strategy.bot_loop_start(current_time=datetime.now(UTC))
    assert not strategy.locks
    trip(cb, strategy)
    strategy.bot_loop_start(current_time=datetime.now(UTC))
    assert strategy.locks == {"*"}
    reset(cb, strategy)
    strategy.bot_loop_start(current_time=datetime.now(UTC))
    assert not strategy.locks
    assert strategy.loops == 3


def test_the_quiet_period_takes_its_part_of_the_strategys_own_stake(start: Start, cb: CircuitBreaker) -> None:
    strategy = start(Own)
    trip(cb, strategy)
    reset(cb, strategy)
    stake = staked(strategy)
    assert 10.0 <= stake < 20.0
    assert not enters(strategy, amount=1.0)
    assert enters(strategy, amount=stake / 100.0)
    sends(strategy, amount=stake / 100.0)
    with pytest.raises(DependencyException, match="quiet period"):
        sends(strategy, amount=1.0)
    strategy.adds = (50.0, "more")
    added, tag = adjusted(strategy)
    assert 5.0 <= added < 10.0
    assert tag == "more"


def test_what_passes_a_hook_and_the_door_is_one_order(start: Start, cb: CircuitBreaker) -> None:
    """The quiet period of an hour begins with six orders a minute."""
    strategy = start(Plain)
    trip(cb, strategy)
    reset(cb, strategy)
    amount = staked(strategy) / 100.0
    for _ in range(6):
        assert enters(strategy, amount)
        sends(strategy, amount=amount)
    assert not enters(strategy, amount)


@pytest.mark.parametrize("kind", [Plain, Own])
def test_the_hooks_keep_their_signatures(start: Start, kind: type[Any]) -> None:
    strategy = start(kind)
    for name in ("confirm_trade_entry", "custom_stake_amount", "adjust_trade_position", "adjust_order_price"):
        assert inspect.signature(getattr(strategy, name)) == inspect.signature(getattr(kind, name).__get__(strategy))
    assert inspect.signature(strategy.dp._exchange.create_order) == inspect.signature(Exchange().create_order)


@pytest.mark.parametrize("runmode", ["backtest", "hyperopt"])
def test_nothing_is_guarded_where_nothing_is_sent(runmode: str) -> None:
    strategy: Any = Plain({"runmode": runmode})
    strategy.bot_start()
    assert enters(strategy)
    strategy.ft_bot_cleanup()


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({}, r"Set `redis_url` in the section `breaker` of the bot's configuration, or BREAKER_REDIS_URL."),
        ({"redis_url": "redis://x", "scope": "a"}, "the section `breaker` has no key 'scope'"),
    ],
)
def test_a_section_that_makes_no_sense_is_told(
    section: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BREAKER_REDIS_URL", raising=False)
    with pytest.raises(OperationalException, match=problem):
        Plain({"runmode": "live", "breaker": section})


def test_before_its_start_and_after_its_end_a_bot_enters_nothing(start: Start, redis_server: Any) -> None:
    early: Any = Plain({"runmode": "live", "breaker": {"redis_url": redis_server.url}})
    assert not enters(early)
    strategy = start(Plain)
    strategy.ft_bot_cleanup()
    assert not enters(strategy)
    with pytest.raises(DependencyException):
        sends(strategy)
    sends(strategy, "sell")


def test_without_redis_no_entry_passes_and_every_exit_does(cb: CircuitBreaker) -> None:
    strategy: Any = Plain({"runmode": "live", "breaker": {"redis_url": "redis://127.0.0.1:1"}})
    strategy.dp = SimpleNamespace(_exchange=Exchange())
    strategy.bot_start()
    try:
        assert not enters(strategy)
        assert not times_out(strategy)
        sends(strategy, "sell")
    finally:
        strategy.ft_bot_cleanup()


def test_the_rules_hear_of_equity_rejections_and_errors(
    start: Start, cb: CircuitBreaker, redis_client: redis.Redis
) -> None:
    strategy = start(Limited, rules_scope="account:BOT", equity_every=0)
    exchange = strategy.dp._exchange
    strategy.bot_loop_start(current_time=datetime.now(UTC))
    eventually(lambda: redis_client.hget("circuit_breaker:equity:account:BOT", "equity") == b"10000.0")
    exchange.problem = DependencyException("insufficient balance")
    with pytest.raises(DependencyException, match="insufficient balance"):
        sends(strategy)
    eventually(lambda: redis_client.exists("circuit_breaker:rejections:account:BOT"))
    exchange.problem = TemporaryError("timeout")
    with pytest.raises(TemporaryError):
        sends(strategy)
    eventually(lambda: redis_client.zcard("circuit_breaker:api_errors:account:BOT") == 1)


def test_a_bot_tells_nobody_unless_told_whose_rules(start: Start, redis_client: redis.Redis) -> None:
    strategy = start(Plain, equity_every=0)
    strategy.bot_loop_start(current_time=datetime.now(UTC))
    sends(strategy)
    strategy.ft_bot_cleanup()
    assert not redis_client.exists("circuit_breaker:equity")


@pytest.mark.parametrize(("spot", "worth"), [(True, Decimal("10200.0")), (False, Decimal("10007.0"))])
def test_equity_is_cash_and_what_open_trades_hold(
    start: Start, monkeypatch: pytest.MonkeyPatch, spot: bool, worth: Decimal
) -> None:
    from breaker.engines.freqtrade_equity import equity_of  # noqa: PLC0415

    held = SimpleNamespace(pair="BTC/USDT", amount=2.0, calc_profit=lambda rate: 7.0)
    unfilled = SimpleNamespace(pair="ETH/USDT", amount=0.0)
    trade = SimpleNamespace(get_trades_proxy=lambda is_open: [held, unfilled])
    monkeypatch.setattr(sys.modules["freqtrade.persistence"], "Trade", trade)
    assert equity_of(start(Plain), spot=spot) == worth
