"""Guard a freqtrade bot from within its strategy, in dry-run and live: no entry while halted, every exit passes.

    class MyStrategy(GuardedStrategy, IStrategy): ...

Each hook that can add risk answers with the strategy's own word and the gate's, whether or not the strategy overrides
it and calls `super()`. Behind the hooks the bot's one door to the exchange, `Exchange.create_order`, is asked once
more: three ways to an entry pass no hook (an added entry that a person forces, a replaced one, a hook that fails).
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from breaker.engines.freqtrade_equity import equity_of
from breaker.engines.rules_feed import RulesFeed
from breaker.errors import one_line
from breaker.gate.decision import Permit
from breaker.gate.gate import Gate
from breaker.gate.intents import OrderIntent
from breaker.gate.lease import ScopeState
from breaker.redis_clients import open_redis

if TYPE_CHECKING:
    import redis

    from breaker.rules import Rules

LOCK_REASON = "circuit breaker"
"""Why all pairs are locked while a breaker is tripped, as freqtrade shows it."""
URL_VARIABLE = "BREAKER_REDIS_URL"

_log = logging.getLogger(__name__)
_FIRST_READING = 2.0
"""Seconds that the bot's start waits for the gate to open."""
_REDIS_TIMEOUT = 2.0
_TRADING = frozenset({"live", "dry_run"})


@dataclass(frozen=True, slots=True)
class BotSettings:
    """The section `breaker` of the bot's configuration.

    Attributes:
        redis_url: Where the breakers' state is; `BREAKER_REDIS_URL` unless given.
        scopes: What the bot's gate watches beside `global`.
        max_staleness: Seconds after a trip from which no entry leaves.
        rules_scope: Whose automatic rules are told of the bot's equity, errors and rejections. None: nobody is told,
            so that a dry run's play money trips nothing.
        equity_every: Seconds between two readings of equity.

    Raises:
        ValueError: no address is given, or there is a key that this section doesn't have.
    """

    redis_url: str
    scopes: tuple[str, ...] = ()
    max_staleness: float = 0.2
    rules_scope: str | None = None
    equity_every: float = 30.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> BotSettings:
        """Read them.

        Args:
            config: freqtrade's whole configuration.
        """
        section = dict(config.get("breaker") or {})
        url = section.pop("redis_url", None) or os.environ.get(URL_VARIABLE)
        if not url:
            raise ValueError(
                "The bot is not started: its breaker's Redis is not known. Set `redis_url` in the section `breaker` of "
                f"the bot's configuration, or {URL_VARIABLE}."
            )
        unknown = section.keys() - {"scopes", "max_staleness", "rules_scope", "equity_every"}
        if unknown:
            raise ValueError(f"The bot is not started: the section `breaker` has no key {min(unknown)!r}.")
        return cls(redis_url=url, **{**section, "scopes": tuple(section.get("scopes", ()))})


class GuardedStrategy:
    """Stands before `IStrategy` among a strategy's bases, and guards the bot that runs it.

    Nothing is guarded in a backtest or an optimisation: neither sends orders, and both would wait for Redis.

    Args:
        config: freqtrade's.

    Raises:
        OperationalException: freqtrade's own, with a sentence, where the section `breaker` makes no sense.

    Example:
        >>> from freqtrade.strategy import IStrategy  # doctest: +SKIP
        >>> class MyStrategy(GuardedStrategy, IStrategy):  # doctest: +SKIP
        ...     timeframe = "5m"
    """

    def __init__(self, config: Any) -> None:
        above: Any = super()
        above.__init__(config)
        runmode = config.get("runmode", "live")
        if str(getattr(runmode, "value", runmode)) not in _TRADING:
            return
        try:
            settings = BotSettings.of(config)
        except (ValueError, TypeError) as error:
            from freqtrade.exceptions import OperationalException  # noqa: PLC0415 -- the bot's own, which it shows

            raise OperationalException(str(error)) from None
        self._guard = _BotGuard(self, settings)

    def breaker_gate(self, settings: BotSettings) -> Gate:
        """Open the bot's gate; override it for another backend, such as `shm`.

        Args:
            settings: The bot's.

        Returns:
            The gate, which is closed when the bot ends.
        """
        return Gate(settings.redis_url, scopes=settings.scopes, max_staleness=settings.max_staleness)

    def breaker_rules(self, client: redis.Redis, scope: str) -> Rules:
        """Make the automatic rules that are told what the bot sees; override it for limits of your own.

        Args:
            client: Of the breakers' Redis.
            scope: `rules_scope` of the settings.

        Returns:
            The rules.
        """
        from breaker.rules import Rules  # noqa: PLC0415 -- only a bot that tells them

        return Rules(client, scope)

    def ft_bot_cleanup(self) -> None:
        """The bot ends, or loads its configuration anew."""
        above: Any = super()
        try:
            above.ft_bot_cleanup()
        finally:
            guard: _BotGuard | None = getattr(self, "_guard", None)
            if guard is not None:
                guard.close()


class _BotGuard:
    """Wraps a strategy object's hooks: a strategy that overrides one without `super()` is guarded all the same."""

    def __init__(self, strategy: Any, settings: BotSettings) -> None:
        self._strategy = strategy
        self._settings = settings
        self._gate: Gate | None = None
        self._redis: redis.Redis | None = None
        self._feed = RulesFeed(None, "freqtrade")
        self._door: Any = None
        self._normal: dict[str, Decimal] = {}
        """By pair, the quantity that the strategy would take on an ordinary day."""
        self._confirmed: dict[tuple[str, str], tuple[OrderIntent, Permit]] = {}
        self._locked: bool | None = None
        self._next_equity = 0.0
        for name, guarded in (
            ("bot_start", self._bot_start),
            ("bot_loop_start", self._bot_loop_start),
            ("confirm_trade_entry", self._confirm_trade_entry),
            ("custom_stake_amount", self._custom_stake_amount),
            ("adjust_trade_position", self._adjust_trade_position),
            ("adjust_order_price", self._adjust_order_price),
            ("check_entry_timeout", self._check_entry_timeout),
        ):
            own = getattr(strategy, name, None)
            if own is not None:
                setattr(strategy, name, functools.wraps(own)(functools.partial(guarded, own)))

    # --- the hooks ----------------------------------------------------------------------------------------------------

    def _bot_start(self, own: Callable[..., None], **said: Any) -> None:
        self._open()
        own(**said)

    def _bot_loop_start(self, own: Callable[..., None], **said: Any) -> None:
        for each in (self._keep_pair_lock, self._tell_equity):
            try:
                each()
            except Exception as error:
                _log.warning("The breaker's guard goes on without this: %s", one_line(error))
        own(**said)

    def _confirm_trade_entry(self, own: Callable[..., bool], **said: Any) -> bool:
        """The gate is asked last: the strategy's own answer may take long, and freqtrade takes a failure for yes."""
        try:
            wanted = own(**said)
        except Exception:
            if not self._admits(said["pair"], said["side"], said["amount"]):
                return False
            raise
        return bool(wanted) and self._admits(said["pair"], said["side"], said["amount"])

    def _custom_stake_amount(self, own: Callable[..., float | None], **said: Any) -> float | None:
        stake = own(**said)
        if not stake:  # freqtrade takes 0 and None for no trade, and a hook that raises for the stake it proposed
            return stake
        return self._limited(said["pair"], stake, said["current_rate"], said["leverage"])

    def _adjust_trade_position(self, own: Callable[..., Any], *args: Any, **said: Any) -> Any:
        answer = own(*args, **said)
        stake, *tag = answer if isinstance(answer, tuple) else (answer,)
        if not stake or not stake > 0:
            return answer
        trade, rate = said["trade"], said["current_entry_rate"]
        stake = self._limited(trade.pair, stake, rate, trade.leverage)
        if not self._admits(trade.pair, _direction(trade.is_short), stake / rate * trade.leverage):
            return None
        return (stake, *tag) if isinstance(answer, tuple) else stake

    def _adjust_order_price(self, own: Callable[..., float | None], **said: Any) -> float | None:
        """A replaced entry is a new one, and passes no other hook."""
        price, current = own(**said), said["current_order_rate"]
        if not said["is_entry"] or not price or price == current:
            return price
        trade, order = said["trade"], said["order"]
        return (
            price
            if self._admits(trade.pair, said["side"], order.safe_remaining * order.safe_price / price)
            else current
        )

    def _check_entry_timeout(self, own: Callable[..., bool], **said: Any) -> bool:
        """An entry that hasn't filled is withdrawn once a breaker is tripped: its fill would be new risk."""
        return self._is_tripped() or own(**said)

    # --- the gate -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.close()
        settings, strategy = self._settings, self._strategy
        self._gate = strategy.breaker_gate(settings)
        atexit.register(self.close)
        if settings.rules_scope is not None:
            self._redis = open_redis(settings.redis_url, timeout=_REDIS_TIMEOUT)
            rules = strategy.breaker_rules(self._redis, settings.rules_scope)
            self._feed = RulesFeed(rules, str(strategy.config["exchange"]["name"]))
        self._guard_door(getattr(strategy.dp, "_exchange", None))
        if not self._gate.wait_until_open(_FIRST_READING):
            _log.warning("The bot starts without entries: %s", self._gate.status().sentence)

    def close(self) -> None:
        """Ends what `bot_start` began. From then on no entry passes."""
        atexit.unregister(self.close)
        if self._gate is not None:
            self._gate.close()
        self._feed.close()
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _admits(self, pair: str, side: str, amount: float) -> bool:
        """Whether an entry of so much may be sent; kept for the door. Never raises."""
        try:
            self._admit(_entry(pair, side, amount, self._normal.get(pair)))
        except _Refused as refused:
            _log.info("No entry into %s: %s", pair, refused)
            return False
        return True

    def _admit(self, intent: OrderIntent) -> None:
        gate = self._gate
        if gate is None:
            raise _Refused("The gate is not open yet: the bot has not started.")
        decision = gate.check(intent, 0)  # an entry adds to what is held, whatever that is
        if decision.permit is None:
            raise _Refused(decision.sentence)
        self._confirmed[intent.symbol, str(intent.side)] = intent, decision.permit

    def _confirm(self, intent: OrderIntent) -> None:
        """At the door: what a hook has let through stands, unless it has grown or a breaker has changed."""
        name = intent.symbol, str(intent.side)
        known = self._confirmed.pop(name, None)
        if known is not None and self._gate is not None:
            earlier, permit = known
            if _covers(earlier, intent) and self._gate.recheck(permit, intent):
                return
        self._admit(intent)
        self._confirmed.pop(name)

    def _limited(self, pair: str, stake: float, rate: float, leverage: float) -> float:
        """In the quiet period the fraction of the strategy's own stake that it allows now, so that it passes."""
        self._normal[pair] = _decimal(stake / rate * leverage) if rate else Decimal(0)
        fraction = None if self._gate is None else self._gate.status().quiet_fraction
        return stake if fraction is None else stake * float(fraction)

    def _is_tripped(self) -> bool:
        return self._gate is not None and ScopeState.TRIPPED in self._gate.status().scopes.values()

    # --- the exchange's door ------------------------------------------------------------------------------------------

    def _guard_door(self, exchange: Any) -> None:
        create = getattr(exchange, "create_order", None)
        if create is None:
            _log.warning(
                "This freqtrade's exchange is not where it used to be: entries that pass no hook of the strategy are "
                "not guarded"
            )
            return
        if getattr(create, "__wrapped__", None) is not None:
            create = create.__wrapped__  # the bot was started anew

        @functools.wraps(create)
        def create_order(**order: Any) -> Any:
            self._pass_door(order)
            return self._send(create, order)

        exchange.create_order = create_order

    def _pass_door(self, order: Mapping[str, Any]) -> None:
        from freqtrade.exceptions import DependencyException  # noqa: PLC0415 -- the bot's own, which it handles

        if order.get("reduceOnly") or (self._is_spot() and order["side"] == "sell"):
            return
        pair = order["pair"]
        try:
            self._confirm(_entry(pair, order["side"], order["amount"], self._normal.get(pair)))
        except _Refused as refused:
            raise DependencyException(f"The entry into {pair} was not sent. {refused}") from None

    def _send(self, create: Callable[..., Any], order: Mapping[str, Any]) -> Any:
        from freqtrade.exceptions import DependencyException, TemporaryError  # noqa: PLC0415

        self._feed.order_sent("create_order")
        try:
            answer = create(**order)
        except TemporaryError as error:
            if _is_from_venue(error):
                self._feed.order_rejected(str(error))
            else:
                self._feed.call_failed()
            raise
        except DependencyException as error:
            self._feed.order_rejected(str(error))
            raise
        self._feed.call_succeeded()
        if answer.get("status") == "rejected":
            self._feed.order_rejected("the venue's status is rejected")
        else:
            self._feed.order_accepted()
        return answer

    def _is_spot(self) -> bool:
        mode = self._strategy.config.get("trading_mode", "spot")
        return str(getattr(mode, "value", mode)) == "spot"

    # --- once a loop --------------------------------------------------------------------------------------------------

    def _keep_pair_lock(self) -> None:
        """A lock stops the bot's buying where people see it, and spares it the signals. It lasts a candle at most."""
        tripped = self._is_tripped()
        if tripped:
            self._strategy.lock_pair("*", datetime.now(UTC), LOCK_REASON)
        elif self._locked is not False:
            self._strategy.unlock_reason(LOCK_REASON)
        self._locked = tripped

    def _tell_equity(self) -> None:
        now = time.monotonic()
        if self._settings.rules_scope is None or now < self._next_equity:
            return
        self._next_equity = now + self._settings.equity_every
        try:
            equity = equity_of(self._strategy, spot=self._is_spot())
        except Exception:
            self._feed.call_failed()
            raise
        self._feed.call_succeeded()
        self._feed.equity(equity, currency=self._strategy.config["stake_currency"])


class _Refused(Exception):
    """The gate says no; the message is its sentence."""


def _entry(pair: str, side: str, amount: float, normal: Decimal | None) -> OrderIntent:
    """`side` is freqtrade's: `long` or `short` in hooks, `buy` or `sell` at the exchange."""
    word = "sell" if side in ("short", "sell") else "buy"
    return OrderIntent(pair, word, _decimal(amount), normal_quantity=normal)


def _covers(earlier: OrderIntent, now: OrderIntent) -> bool:
    return (
        isinstance(earlier.quantity, Decimal) and isinstance(now.quantity, Decimal) and now.quantity <= earlier.quantity
    )


def _direction(is_short: bool) -> str:
    return "short" if is_short else "long"


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _is_from_venue(error: BaseException) -> bool:
    """freqtrade calls temporary, too, what the venue refused for a reason that it has no name for."""
    import ccxt  # noqa: PLC0415 -- freqtrade's own

    cause = error.__cause__
    return isinstance(cause, ccxt.BaseError) and not isinstance(cause, ccxt.OperationFailed)
