"""Tell of each automatic rule what it last heard and how near its limit that is; red where a rule hears nothing.

Source: runbook, *Automatic Trips*. A rule that is on and hears nothing protects nobody, and neither does one whose
measurements are refused again and again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from breaker.keys import GLOBAL, Keys, of_scope
from breaker.limits import Limits, Rule
from breaker.redis_time import microseconds_of, to_datetime
from breaker.requests import Command, Request, raise_if_error
from breaker.rule_requests import OTHER_CURRENCY, Outcome, RuleRequests, Verdict, read_outcome
from breaker.rule_table import RULE_TABLE
from configuration.breakers import limits_from
from configuration.monitor import monitored_scope
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from tasks.checks.equity import texts
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import NEAR, Probe, redis_reader

OFF = "off"
_IN_A_ROW = " in a row"
_REFUSED_OFTEN = 3
_REFUSED_FOR = 60.0
"""Refusals in a row, and seconds since the first of them, from which on they are no mishap."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a rule last heard."""

    at: datetime
    """When that was, by Redis's clock."""
    age: float
    """Seconds since then."""
    share: Decimal
    """How much of its limit it took; 1 is at the limit."""
    warned: int
    """Of how many percent of the limit people were warned, 0 for none."""
    mode: str
    """`on`, `dry` or `off`, as whoever measured has it."""
    details: Mapping[str, str]
    """Measured value, limit and window as text."""

    @property
    def distance(self) -> Decimal:
        """The share of the limit that is left; 0 at the limit, negative beyond it."""
        return 1 - self.share


def judged_of(stored: Mapping[str, str], now: int) -> dict[Rule, Judged]:
    """What is `stored`, at Redis's time `now` in Unix microseconds; what none of our scripts wrote is left out."""
    return {rule: found for rule in Rule if (found := _judged(stored.get(rule, ""), now)) is not None}


async def read_judged(settings: Settings, scope: str = GLOBAL) -> dict[Rule, Judged]:
    """What each rule of the scope last heard. Raises BreakerUnavailable or RedisRefused."""
    key = Keys.of(scope).key("judged")
    async with redis_reader(settings) as redis:
        now = await redis.now()
        (stored,) = await redis.ask(f"read {key}", ("HGETALL", key))
    return judged_of(texts(stored), now)


def scopes_of(settings: Settings) -> list[str]:
    """The scopes whose rules are looked after: the desk's, those with limits of their own, those of accounts."""
    return list(dict.fromkeys([GLOBAL, *settings.rules, *_monitored_scopes(settings)]))


def _monitored_scopes(settings: Settings) -> list[str]:
    """Those that the account monitor measures for: one account alone is judged as the desk."""
    return [monitored_scope(name, settings.accounts) for name in settings.accounts]


def expected_rules(settings: Settings, scope: str) -> tuple[Rule, ...]:
    """The rules of the scope that are on and should hear something all the time.

    With several accounts each is judged by itself, and the desk has nothing to hear of any.
    """
    if scope not in (_monitored_scopes(settings) or [GLOBAL]):
        return ()
    limits = limits_from(settings, scope)
    return tuple(rule for rule, row in RULE_TABLE.items() if row.hears_always and row.limit(limits) is not None)


async def check_rules(settings: Settings) -> list[Measurement]:
    """Of each scope, whether its rules hear what they judge; a red measurement where one does not.

    In one exchange with Redis, however many accounts there are.
    """
    scopes = scopes_of(settings)
    asked = [_silence_of(settings, scope) for scope in scopes]
    client = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
    try:
        clock, *replies = await client.execute(_request(scopes, [each for each in asked if each is not None]))
        raise_if_error(clock)
    except BreakerError as error:
        return [_probe(settings, GLOBAL).failed(str(error))]
    finally:
        await client.close()
    now, refused, silences = microseconds_of(clock), replies[: len(scopes)], iter(replies[len(scopes) :])
    return [
        _judge(settings, scope, now, reply, None if silence is None else next(silences))
        for scope, silence, reply in zip(scopes, asked, refused, strict=True)
    ]


def _request(scopes: Sequence[str], silences: Sequence[Request]) -> Request:
    reads: list[Command] = [("TIME",), *(("HGETALL", Keys.of(scope).key("refused_measurements")) for scope in scopes)]
    return Request(
        "hear what the rules heard",
        (*reads, *(command for each in silences for command in each.commands)),
        (*reads, *(command for each in silences for command in each.eval_commands)),
    )


def _silence_of(settings: Settings, scope: str) -> Request | None:
    limits, expected = limits_from(settings, scope), expected_rules(settings, scope)
    if not expected or limits.silence is None:
        return None
    return RuleRequests(Keys.of(scope), limits).silence(expected, "")


def _judge(settings: Settings, scope: str, now: int, refused: Any, silence: Any) -> Measurement:
    """By what Redis replied of one scope."""
    probe = _probe(settings, scope)
    try:
        raise_if_error(refused)
        outcome = None if silence is None else read_outcome(silence)
    except BreakerError as error:
        return probe.failed(str(error))
    return judge_rules(probe, outcome, refused_in_a_row(texts(refused), now), bool(settings.accounts))


def _probe(settings: Settings, scope: str) -> Probe:
    silence = limits_from(settings, scope).silence
    limit = "none: silence is not judged" if silence is None else f"heard within {silence:g} s"
    return Probe("rules" if scope == GLOBAL else f"rules/{scope}", limit, f"what the rules of {scope} last heard")


def judge_rules(probe: Probe, silence: Outcome | None, refused: Mapping[str, str], has_accounts: bool) -> Measurement:
    """`refused` is why what is refused again and again is, by what it is."""
    if OTHER_CURRENCY in refused:
        scope = probe.name.partition("/")[2] or GLOBAL
        how = f"with `breaker equity rebase --reason WHY{of_scope(scope)}`, and see to limits that are amounts"
        return probe.measured("refused", Colour.RED, f"Nothing trips by equity: {refused[OTHER_CURRENCY]}, {how}.")
    if refused:
        what = "; ".join(f"{kind}: {why}" for kind, why in sorted(refused.items()))
        return probe.measured(
            "refused", Colour.RED, f"Measurements are refused again and again: {what}. See who sends."
        )
    silent = silence.details["silent"] if silence is not None else ""
    if silence is None:
        return probe.measured("nothing is expected")
    value = f"the longest silence is {silence.details['measured']}"
    if not silent:
        return probe.measured(value)
    tripped = " The breaker was tripped." if silence.verdict is Verdict.TRIPPED else ""
    feeders = ", ".join(dict.fromkeys(RULE_TABLE[Rule(name)].fed_by for name in silent.split(", ")))
    problem = f"{silent} heard nothing for {silence.details['limit']}, so nothing trips by them ({feeders}).{tripped}"
    if not has_accounts:
        return probe.measured(value, Colour.YELLOW, f"No account is configured. {problem}")
    return probe.measured(value, Colour.RED, f"{problem} See that `breaker monitor` runs, or switch the rules off.")


def refused_in_a_row(stored: Mapping[str, str], now: int) -> dict[str, str]:
    """Why measurements are refused, of each kind that is so again and again: too often for a mishap.

    Another currency is none, and the account goes unjudged: that is told from the first.
    """
    return {
        field.removesuffix(_IN_A_ROW): why
        for field, text in stored.items()
        if field.endswith(_IN_A_ROW)
        for count, began, why in _rows(text)
        if field == OTHER_CURRENCY + _IN_A_ROW
        or (count >= _REFUSED_OFTEN and (now - began) / 1_000_000 >= _REFUSED_FOR)
    }


def _rows(text: str) -> Iterator[tuple[int, int, str]]:
    count, _, rest = text.partition(" ")
    began, _, why = rest.partition(" ")
    if count.isdigit() and began.isdigit():
        yield int(count), int(began), why


def _judged(text: str, now: int) -> Judged | None:
    try:
        at, share, warned, mode, details = text.split(" ", 4)
        told: Any = json.loads(details)
        return Judged(
            to_datetime(int(at)),
            max(0.0, (now - int(at)) / 1_000_000),
            Decimal(share),
            int(warned),
            mode,
            {str(name): str(value) for name, value in told.items()},
        )
    except (ValueError, InvalidOperation, AttributeError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One rule as people read it."""

    rule: Rule
    limit: str
    """`off` where it has none."""
    dry_run: bool
    last: Judged | None

    @property
    def left(self) -> Decimal | None:
        """The share of the limit that is left; None for a rule that is off, or has heard nothing."""
        return None if self.limit == OFF or self.last is None or self.last.mode == OFF else self.last.distance

    @property
    def colour(self) -> Colour:
        """Red beyond the limit, yellow near it and for a rule that is on and never heard anything."""
        if self.left is None:
            return Colour.GREEN if self.limit == OFF else Colour.YELLOW
        if self.left < 0:
            return Colour.RED
        return Colour.YELLOW if self.left <= 1 - Decimal(str(NEAR)) else Colour.GREEN


def rule_lines(limits: Limits, judged: Mapping[Rule, Judged]) -> list[RuleLine]:
    """Every rule, in the table's order."""
    return [
        RuleLine(rule, limits_in_words(limits, rule), rule in limits.dry_run, judged.get(rule)) for rule in RULE_TABLE
    ]


def limits_in_words(limits: Limits, rule: Rule) -> str:
    """The limit of a rule as people write it; `off` where it has none."""
    limit = RULE_TABLE[rule].limit(limits)
    if limit is None:
        return OFF
    unit = RULE_TABLE[rule].unit
    if unit.startswith("fraction"):
        return f"{Decimal(str(limit)):.2%}"
    return f"{limit:g} s" if unit == "seconds" else f"{limit:g}" if isinstance(limit, float) else f"{limit}"
