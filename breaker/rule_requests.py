"""Build the requests that record a measurement for the automatic rules, and read the replies. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import MAX_EMAX, MIN_EMIN, Decimal, InvalidOperation, localcontext
from enum import StrEnum
from typing import Any, Protocol

from breaker.checked_inputs import checked_uuid
from breaker.errors import InvalidInput, RedisRefused
from breaker.instruments import canonical_symbol
from breaker.keys import GLOBAL, Keys
from breaker.limits import Limits, Rule
from breaker.redis_time import microseconds_of, to_datetime, to_microseconds
from breaker.requests import Request, load_script, raise_if_error, script_request
from breaker.uuid7 import uuid7

READ_CLOCK = Request("read its clock", (("TIME",),))

_FEED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CURRENCY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,19}")
_MAX_TEXT = 200
_OF_EVERY_RULE = ("would_have_tripped", "refused_measurements", "confirmations", "judged")
_OF_EQUITY = ("equity_readings", "transfers")
WARNINGS = "circuit_breaker:rule_warnings"
"""The stream of what came near its limit, of every scope."""
OTHER_CURRENCY = "EQUITY_CURRENCY"
"""How equity is counted that is refused since it is in another currency than what it would be judged from."""
_UNIX_EPOCH = date(1970, 1, 1)


class Verdict(StrEnum):
    """What came of one measurement."""

    WITHIN = "WITHIN"
    """Within the limit."""
    OFF = "OFF"
    """Recorded; the rule is switched off."""
    UNCONFIRMED = "UNCONFIRMED"
    """Beyond the limit, but not often enough in a row yet."""
    WOULD_TRIP = "WOULD_TRIP"
    """Beyond the limit; the rule is in dry run."""
    ALREADY_TRIPPED = "ALREADY_TRIPPED"
    """Beyond the limit; the breaker was tripped already."""
    TRIPPED = "TRIPPED"
    """This very measurement tripped the breaker."""
    REFUSED = "REFUSED"
    """Impossible, or not trusted by its venue: not recorded, not acted on, counted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one measurement, and why.

    Attributes:
        verdict: Whether it is within the limit, and what that led to.
        details: Measured value, limit and window as text; for REFUSED the `problem`, and its `kind` as counted.

    Example:
        >>> outcome = Rules(client).record_api_error("alpaca")
        >>> outcome.verdict, outcome.details["measured"], outcome.details["limit"]
        (<Verdict.WITHIN: 'WITHIN'>, '1', '10')
    """

    verdict: Verdict
    details: Mapping[str, str]


class Calendar(Protocol):
    """When the market is open. While it is closed no data is missed.

    Example:
        >>> class RoundTheClock:
        ...     def open_since(self, at: datetime) -> datetime | None:
        ...         return datetime(2009, 1, 3, tzinfo=UTC)
        >>> Rules(client, calendar=RoundTheClock()).check_staleness(["quotes"]).verdict
        <Verdict.WITHIN: 'WITHIN'>
    """

    def open_since(self, at: datetime) -> datetime | None:
        """When the session running at `at` began; None while the market is closed.

        Args:
            at: A UTC-aware time.

        Returns:
            A time with a zone, or None.
        """
        ...


@dataclass(frozen=True, slots=True)
class RuleRequests:
    """Builds the requests that record the measurements of one scope; checks every argument."""

    keys: Keys
    limits: Limits

    def api_error(self, source: str) -> Request:
        limits = self.limits
        return self._event(Rule.API_ERRORS, limits.api_errors, "api_errors", limits.api_error_window, source)

    def order_sent(self, what: str) -> Request:
        return self._event(Rule.ORDER_RATE, self.limits.order_rate, "orders_sent", 1.0, what)

    def execution(self) -> Request:
        limit = self.limits.repeated_executions
        return self._request("record_execution", Rule.REPEATED_EXECUTION, limit, "executions", (limit or 0,))

    def margin(self, required: object, equity: object) -> Request:
        """Of nothing, or less, any margin is all of it and more."""
        limit = self.limits.margin
        arguments = (Rule.MARGIN, margin_text(required, equity), limit or 0, "of the equity")
        return self._request("record_value", Rule.MARGIN, limit, "judged", arguments)

    def latency(self, seconds: float, source: str) -> Request:
        limit = self.limits.api_latency
        measured = f"{seconds:.3f}" if isinstance(seconds, int | float) else decimal_text(seconds)
        arguments = (Rule.API_LATENCY, measured, limit or 0, f"answer of {checked_text(source)}")
        return self._request("record_value", Rule.API_LATENCY, limit, "judged", arguments)

    def positions(self, positions: Mapping[str, tuple[Decimal, Decimal]], *, by_amount: bool) -> Request:
        limits = self.limits if by_amount else replace(self.limits, position_size=None, gross_exposure=None)
        judged_by = (
            limits.position_size or 0,
            limits.mode(Rule.GROSS_EXPOSURE, limits.gross_exposure),
            limits.wanted(Rule.GROSS_EXPOSURE),
            limits.gross_exposure or 0,
            limits.mode(Rule.POSITION_MISMATCH, limits.position_mismatch),
            limits.wanted(Rule.POSITION_MISMATCH),
            limits.position_mismatch or 0,
        )
        held = [
            word
            for symbol, (quantity, notional) in positions.items()
            for word in (canonical_symbol(symbol), decimal_text(quantity), decimal_text(notional))
        ]
        return self._request(
            "record_positions",
            Rule.POSITION_SIZE,
            limits.position_size,
            "believed_positions",
            (*judged_by, *held),
        )

    def believed_positions(self, positions: Mapping[str, Decimal]) -> Request:
        """Overwrites those of before: it is the whole of what the engine believes in. Raises InvalidInput."""
        held: dict[str, Decimal] = {}
        for symbol, quantity in positions.items():
            text = decimal_text(quantity)
            if not is_finite(text):
                raise InvalidInput(
                    f"The position in {symbol!r:.40} is {quantity!r:.40}, no number; nothing was changed."
                )
            held[canonical_symbol(symbol)] = held.get(canonical_symbol(symbol), Decimal(0)) + Decimal(text)
        told = json.dumps({"positions": {symbol: f"{quantity:f}" for symbol, quantity in held.items()}})
        key = self.keys.key("believed_positions")
        return Request("publish positions", (("SET", key, told),))

    def silence(self, rules: Sequence[Rule], open_since: str) -> Request:
        """`open_since` as for `staleness`."""
        limits = self.limits
        if limits.silence is None or not rules:
            raise InvalidInput("No rule was named whose silence could be judged, or it is not judged at all.")
        trips = limits.silence if limits.silence_trips else None
        arguments = (round(limits.silence * 1000), open_since, *rules)
        return self._request("check_silence", Rule.SILENT_INPUT, trips, "judged", arguments)

    def api_success(self, source: str) -> Request:
        limits = self.limits
        window = round(limits.api_error_window * 1000)
        return self._request(
            "record_api_success",
            Rule.API_ERRORS,
            limits.api_errors,
            "api_success",
            (window, limits.api_errors or 0, checked_text(source)),
            (self.keys.key("api_errors"),),
        )

    def order_rejected(self, why: str) -> Request:
        return self._rejection(checked_text(why))

    def order_accepted(self) -> Request:
        return self._rejection("")

    def equity(
        self,
        value: object,
        at: datetime | None,
        *,
        trusted: bool,
        day: date | None,
        event_id: str | None,
        currency: str | None,
    ) -> Request:
        named = "" if day is None else str((day - _UNIX_EPOCH).days)
        arguments = (decimal_text(value), time_text(at), named, int(trusted), currency_text(currency))
        return self._of_equity("record_equity", arguments, event_id)

    def transfer(self, amount: object, at: datetime | None, transfer_id: str) -> Request:
        return self._of_equity(
            "record_transfer", (decimal_text(amount), time_text(at), checked_text(transfer_id)), None
        )

    def transfers(self) -> Request:
        return Request("read transfers", (("HGETALL", self.keys.key("transfers")),))

    def rebase(self, value: object, event_id: str | None) -> Request:
        """`value` is None for the last equity that was measured."""
        return self._of_equity("rebase_equity", ("" if value is None else decimal_text(value),), event_id)

    def heartbeat(self, feed: str, at: datetime | None) -> Request:
        measurement = f"heartbeat:{checked_feed(feed)}"
        limit = self.limits.data_age
        return self._request("record_heartbeat", Rule.DATA_STALENESS, limit, measurement, (time_text(at),))

    def staleness(self, feeds: Sequence[str], open_since: str) -> Request:
        """`open_since`: what `market_open_since` says; '' without a calendar."""
        if not feeds:
            raise InvalidInput("No feed was named, so there is no data whose age could be judged.")
        limit = self.limits.data_age
        heartbeats = tuple(self.keys.key(f"heartbeat:{checked_feed(feed)}") for feed in feeds)
        arguments = (0 if limit is None else round(limit * 1000), open_since, *feeds)
        return self._request("check_staleness", Rule.DATA_STALENESS, limit, "feeds", arguments, heartbeats)

    def refused_measurements(self) -> Request:
        return Request("read refusals", (("HGETALL", self.keys.key("refused_measurements")),))

    def would_have_tripped(self, limit: int) -> Request:
        key = self.keys.key("would_have_tripped")
        return Request("read dry runs", (("XREVRANGE", key, "+", "-", "COUNT", limit),))

    def _event(self, rule: Rule, limit: int | None, measurement: str, window: float, source: str) -> Request:
        arguments = (round(window * 1000), limit or 0, checked_text(source), rule)
        return self._request("record_event", rule, limit, measurement, arguments)

    def _rejection(self, why: str) -> Request:
        limit = self.limits.consecutive_rejections
        return self._request("record_rejection", Rule.CONSECUTIVE_REJECTIONS, limit, "rejections", (limit or 0, why))

    def _of_equity(self, script: str, arguments: Sequence[object], event_id: str | None) -> Request:
        limits = self.limits
        judged_by = (
            limits.drawdown or 0,
            limits.mode(Rule.DAILY_LOSS, limits.daily_loss),
            limits.wanted(Rule.DAILY_LOSS),
            limits.daily_loss or 0,
            limits.mode(Rule.LOSS_VELOCITY, limits.loss_velocity),
            limits.wanted(Rule.LOSS_VELOCITY),
            limits.loss_velocity or 0,
            round(limits.loss_window * 1_000_000),
        )
        return self._request(
            script,
            Rule.DRAWDOWN,
            limits.drawdown,
            "equity",
            (*judged_by, *arguments),
            tuple(self.keys.key(name) for name in _OF_EQUITY),
            event_id,
            ("equity",),
        )

    def _request(
        self,
        script: str,
        rule: Rule,
        limit: object,
        measurement: str,
        arguments: Sequence[object],
        further_keys: tuple[str, ...] = (),
        event_id: str | None = None,
        shared: tuple[str, ...] = (),
    ) -> Request:
        keys = self.keys
        of_rule = (*(keys.key(name) for name in (measurement, *_OF_EVERY_RULE)), WARNINGS)
        names = (*keys.of_transition, *of_rule, *further_keys)
        event_id = uuid7() if event_id is None else checked_uuid(event_id, "event_id")
        # What a trip is recorded with; the script gives its reason and details.
        transition = (event_id, json.dumps(keys.scope), '"rule"', '""', "{}", '"rule"', "null", uuid7())
        judged_by = (self.limits.mode(rule, limit), self.limits.wanted(rule))
        return script_request(
            load_script(script, "rules", *shared),
            names,
            (*transition, *judged_by, *(str(argument) for argument in arguments)),
            purpose=f"{script.replace('_', ' ')} for {keys.state}",
            event_id=event_id,
        )


def limits_of(scope: str, limits: Limits | Mapping[str, Limits]) -> Limits:
    """Those of `scope`; of a mapping its own, else those of `global`, else the runbook's."""
    if isinstance(limits, Limits):
        return limits
    return limits.get(scope) or limits.get(GLOBAL) or Limits()


def market_open_since(calendar: Calendar, clock: Any) -> str:
    """Since when the market has been open by Redis's clock, as the script reads it."""
    raise_if_error(clock)
    since = calendar.open_since(to_datetime(microseconds_of(clock)))
    return "closed" if since is None else time_text(since)


_LONGEST_AMOUNT = 40
"""Digits before or after the point that are written out; a text can name millions of them."""
_MOST_MARGIN = Decimal(1_000_000)
"""Times the equity; what is more is told no more exactly."""


def time_text(at: datetime | None) -> str:
    """`at` as Unix microseconds; '' for None. Raises InvalidInput for a time without a zone."""
    if at is None:
        return ""
    if at.tzinfo is None:
        raise InvalidInput(f"{at} has no time zone; nothing was recorded. Use times in UTC.")
    return str(to_microseconds(at))


def currency_text(currency: str | None) -> str:
    """`currency` in capitals; '' for None. Raises InvalidInput for what names none."""
    if currency is None:
        return ""
    if not is_currency(currency):
        raise InvalidInput(f"{currency!r:.60} is no currency; use a code such as USD. Nothing was recorded.")
    return currency.upper()


def is_currency(text: object) -> bool:
    """Whether it is a code such as USD or USDT."""
    return isinstance(text, str) and _CURRENCY.fullmatch(text) is not None


def decimal_text(value: object) -> str:
    """`value` as text for the script, which refuses, and counts, what is no amount. People read it: no exponent."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float | str):
        return "none"
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return "none"
    return f"{amount:f}" if amount.is_finite() and abs(amount.adjusted()) < _LONGEST_AMOUNT else str(amount)


def is_finite(text: str) -> bool:
    """Whether a text of `decimal_text` is an amount."""
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


def margin_text(required: object, equity: object) -> str:
    """The share of `equity` that is `required`, as text for the script, which refuses what is none."""
    needed, held = decimal_text(required), decimal_text(equity)
    if not is_finite(needed) or not is_finite(held):
        return "none"
    if Decimal(held) <= 0:
        return "0" if Decimal(needed) <= 0 else f"{_MOST_MARGIN}"
    with localcontext(Emax=MAX_EMAX, Emin=MIN_EMIN):
        return f"{min(max(Decimal(needed) / Decimal(held), Decimal(0)), _MOST_MARGIN):.6f}"


def checked_text(value: str) -> str:
    """A short plain description. Raises InvalidInput when it is empty or long."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise InvalidInput(f"{value!r:.60} can't be recorded; use text of 1 to {_MAX_TEXT} characters.")
    return value


def checked_feed(feed: str) -> str:
    """A feed's name. Raises InvalidInput for what can't be one."""
    if not isinstance(feed, str) or not _FEED.fullmatch(feed):
        raise InvalidInput(f"{feed!r:.60} is no feed's name; use letters, digits, '_', '.', '-', at most 64.")
    return feed


def read_outcome(reply: Any) -> Outcome:
    """What a rule's script answered. Raises RedisRefused when it could not trip."""
    raise_if_error(reply)
    verdict, details = reply[0].decode(), reply[1].decode()
    if verdict == Verdict.REFUSED:
        kind = {"kind": reply[2].decode()} if len(reply) > 2 else {}
        return Outcome(Verdict.REFUSED, {"problem": details, **kind})
    if verdict not in Verdict.__members__:
        raise RedisRefused(
            f"A rule's limit was passed, but the breaker could not be tripped ({verdict} {details}). Trip it."
        )
    return Outcome(Verdict(verdict), json.loads(details))


def read_transfers(reply: Any) -> list[tuple[datetime, Decimal]]:
    """When money was moved, and how much, oldest first; what is no transfer is left out."""
    raise_if_error(reply)
    return sorted(found for text in reply[1::2] if (found := _transfer(text)) is not None)


def _transfer(text: bytes) -> tuple[datetime, Decimal] | None:
    at, _, amount = text.decode("utf-8", "replace").partition(" ")
    try:
        moved = Decimal(amount)
        return (to_datetime(int(at)), moved) if moved.is_finite() else None
    except (ValueError, OverflowError, InvalidOperation):
        return None


def read_counts(reply: Any) -> dict[str, int]:
    """The fields of a hash of counters; one that holds no number, which is nobody's count, is left out."""
    raise_if_error(reply)
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {name.decode("utf-8", "replace"): int(count) for name, count in pairs if count.isdigit()}


def read_entries(reply: Any) -> list[dict[str, str]]:
    """The entries of a stream, without their ids; bytes that are no text are shown as `\ufffd`."""
    raise_if_error(reply)
    return [
        {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for name, value in zip(fields[::2], fields[1::2], strict=True)
        }
        for _, fields in reply
    ]
