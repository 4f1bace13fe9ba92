"""Tell from an account's recorded equity what the rules that look at it do next, and what lifts that.

Source: runbook, *Automatic Trips* (drawdown from the high-water mark). A drawdown does not end with its trip: until the
high-water mark begins anew, the next measurement that is as low trips again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal, InvalidOperation

from breaker.errors import BreakerError
from breaker.keys import GLOBAL, Keys
from breaker.limits import Limits, Rule
from configuration.breakers import limits_from
from configuration.settings import Settings
from tasks.amounts import figure
from tasks.checks.probe import redis_reader

_DAY = 86_400_000_000
_CENT = Decimal("0.01")
_TOO_LARGE_FOR_CENTS = Decimal(10) ** 24


@dataclass(frozen=True, slots=True)
class Equity:
    """In the account's currency, as the rule DRAWDOWN keeps it."""

    equity: Decimal
    """Zero or less for an account that has lost everything."""
    high_water: Decimal | None
    """None where there never was any equity above zero; zero for an account that was emptied."""
    day_start: Decimal | None
    """The first of the present trading day; None before there was one."""
    age: float
    """Seconds since it was measured."""
    currency: str = ""
    """Whose amounts these are; empty where nobody has said."""
    uncompared: str = ""
    """A newer measurement in another currency, such as `92000 EUR`: nothing is judged until people begin anew."""

    def figure(self, value: Decimal | None) -> str:
        """One of its amounts, as people read it."""
        return "none" if value is None else figure(value, self.currency)

    @property
    def is_unfunded(self) -> bool:
        """Nothing has come into the account yet, so there is nothing of which it could have lost a part."""
        return self.high_water is None and self.equity == 0

    @property
    def drawdown(self) -> Decimal:
        """How far it is below the high-water mark, as a fraction; one and more where nothing is left."""
        return fallen(self.high_water, self.equity)

    @property
    def daily_loss(self) -> Decimal:
        """How far it is below the day's first, as a fraction."""
        return Decimal(0) if self.day_start is None else fallen(self.day_start, self.equity)


@dataclass(frozen=True, slots=True)
class _Fall:
    """One rule's view of it."""

    rule: Rule
    reference: Decimal | None
    called: str
    limit: Decimal


def equity_of(stored: Mapping[str, str], now: int) -> Equity | None:
    """What is `stored`, at Redis's time `now` in Unix microseconds; None where nothing is. Raises ValueError."""
    if not stored:
        return None
    try:
        equity = Decimal(stored["equity"])
        high_water = Decimal(stored["high_water"]) if stored["high_water"] else None
        # A trading day may begin before its date does.
        day_start = Decimal(stored["day_start"]) if int(stored.get("day", -1)) >= now // _DAY else None
        age = (now - float(stored["measured_at"])) / 1_000_000
    except (KeyError, ValueError, InvalidOperation) as error:
        raise ValueError(f"what is stored is no equity ({error!r})") from None
    known = [amount for amount in (equity, high_water, day_start) if amount is not None]
    if not all(amount.is_finite() for amount in known):
        raise ValueError("what is stored is no equity")
    if high_water is not None and (high_water < 0 or (high_water == 0 and equity > 0)):
        raise ValueError("what is stored is no equity")
    _, _, uncompared = stored.get("in_other_currency", "").partition(" ")
    return Equity(equity, high_water, day_start, age, stored.get("currency", ""), uncompared)


async def read_equity(settings: Settings, scope: str = GLOBAL) -> Equity | None:
    """The scope's; None where none is recorded.

    Raises BreakerUnavailable or RedisRefused, and ValueError for what is stored and is no equity.
    """
    key = Keys.of(scope).key("equity")
    async with redis_reader(settings) as redis:
        now = await redis.now()
        (stored,) = await redis.ask(f"read {key}", ("HGETALL", key))
    return equity_of(texts(stored), now)


def trips_again(held: Equity, limits: Limits) -> str:
    """That the next measurement trips again, with the figures and the two ways out; empty where it would not."""
    if held.uncompared:
        return other_currency(held)
    beyond = [fall for fall in _judged(held, limits) if fallen(fall.reference, held.equity) > fall.limit]
    if not beyond:
        return ""
    if held.equity <= 0:
        return (
            f"equity {held.figure(held.equity)} is all that is left of the account: each measurement that low trips "
            "again, and there is nothing at which the high-water mark could begin anew"
        )
    figures = " and ".join(
        f"{fallen(fall.reference, held.equity):.2%} below {fall.called} {held.figure(fall.reference)} "
        f"(limit {fall.limit:.1%})"
        for fall in beyond
    )
    enough = max(least_within(fall.reference, fall.limit) for fall in beyond if fall.reference is not None)
    return (
        f"equity {held.figure(held.equity)} is {figures}: the next measurement below {enough:f} trips again, unless "
        "the high-water mark begins anew (re-base)"
    )


def other_currency(held: Equity) -> str:
    """That what comes in is in another currency, and what lifts that."""
    return (
        f"equity is {held.uncompared} by now and the high-water mark in {held.currency}, so neither is compared and no "
        "drawdown trips, unless the high-water mark begins anew (re-base)"
    )


async def trips_again_of(settings: Settings, scope: str) -> str:
    """`trips_again` of the scope; empty too where its equity can't be read, which is a red condition of its own."""
    try:
        held = await read_equity(settings, scope)
    except (BreakerError, ValueError):
        return ""
    return "" if held is None else trips_again(held, limits_from(settings, scope))


def least_within(reference: Decimal, limit: Decimal) -> Decimal:
    """The lowest equity, in whole cents, that is not beyond `limit` below `reference`."""
    exact = reference * (1 - limit)
    if exact >= _TOO_LARGE_FOR_CENTS:
        return exact
    least = exact.quantize(_CENT, ROUND_UP)
    return least.quantize(Decimal(1)) if least == least.to_integral_value() else least


def texts(reply: Sequence[bytes]) -> dict[str, str]:
    """A hash as Redis gives it."""
    words = [word.decode("utf-8", "replace") for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def _judged(held: Equity, limits: Limits) -> list[_Fall]:
    """By the rules that are on and do more than tell."""
    falls = []
    if limits.drawdown is not None:
        falls.append(_Fall(Rule.DRAWDOWN, held.high_water, "the high-water mark", limits.drawdown))
    if limits.daily_loss is not None and held.day_start is not None:
        falls.append(_Fall(Rule.DAILY_LOSS, held.day_start, "the day's first", limits.daily_loss))
    return [fall for fall in falls if fall.rule not in limits.dry_run]


def fallen(reference: Decimal | None, equity: Decimal) -> Decimal:
    """How far `equity` is below `reference`, as a fraction; as the rules' script tells it.

    Zero or less is the whole of it, but for an account that was emptied or has nothing yet: debts alone are its loss.
    """
    if reference is not None and reference > 0:
        return max((reference - equity) / reference, Decimal(0))
    return Decimal(int(equity < 0))
