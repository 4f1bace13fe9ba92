"""Build the breaker's requests to Redis and read the replies. Pure: shared by the blocking and the async client."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from breaker.checked_inputs import (
    checked_address,
    checked_details,
    checked_epoch,
    checked_name,
    checked_text,
    checked_uuid,
)
from breaker.errors import (
    BreakerError,
    InvalidInput,
    NotTripped,
    QuietPeriodUnwatched,
    RedisRefused,
    ResetRateLimited,
    StateConflict,
    one_line,
)
from breaker.events import History, read_history
from breaker.keys import Keys, of_scope
from breaker.redis_time import microseconds_of
from breaker.state import Status, read_status, wrong_type_status
from breaker.transition_terms import ResetToken, Watching
from breaker.uuid7 import uuid7

SOURCES = frozenset({"cli", "console", "api", "flow", "rule", "gate", "library", "override"})
_REASON_LENGTH = 200
_RESET_REASON_LENGTH = 1_000

Command = tuple[str | bytes | int, ...]


def encode_command(*words: str | int | bytes) -> bytes:
    """One command as Redis reads it."""
    encoded = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return b"".join([b"*%d\r\n" % len(encoded), *(b"$%d\r\n%b\r\n" % (len(w), w) for w in encoded)])


@dataclass(frozen=True, slots=True)
class Request:
    """Commands that are sent to Redis together, and whose replies are read together."""

    purpose: str
    """What it is for, as it reads in an error: "trip circuit_breaker:state"."""
    commands: tuple[Command, ...]
    eval_commands: tuple[Command, ...] = ()
    """The same with EVAL in place of EVALSHA, for a server that doesn't know the script (NOSCRIPT)."""
    event_id: str | None = None
    precedes_transition: bool = False
    """Whether it reads what a transition is about to change, so that its failure means that nothing was changed."""
    trailing_commands: tuple[Command, ...] = ()
    """Sent after either of them; their replies come last, and may be errors without the request having failed."""
    confirmation: Callable[[float], tuple[Command, ...]] | None = None
    """The same for what waits on purpose, made for each attempt of the seconds that it has."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the SHA1 by which a server that has seen it knows it."""

    text: str
    sha: str


@cache
def load_script(name: str, *shared: str) -> Script:
    """The script `name`, with the prelude and further `shared` parts after its first line, which must stay first."""
    folder = Path(__file__).with_name("scripts")
    first, body = (folder / f"{name}.lua").read_text("utf-8").split("\n", 1)
    parts = [(folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", *shared)]
    return standalone_script("\n".join([first, *parts, body]))


def standalone_script(text: str) -> Script:
    """A script that needs nothing of the prelude."""
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def script_request(
    script: Script, keys: Sequence[str], arguments: Sequence[str | int], *, purpose: str, event_id: str | None = None
) -> Request:
    """Run `script`, by its SHA and if need be by its text."""
    tail = (len(keys), *keys, *arguments)
    return Request(
        purpose=purpose,
        commands=(("EVALSHA", script.sha, *tail),),
        eval_commands=(("EVAL", script.text, *tail),),
        event_id=event_id,
    )


@dataclass(frozen=True, slots=True)
class RequestBuilder:
    """Builds the requests of one scope's breaker that come in by one way (`source`); checks every argument."""

    keys: Keys
    source: str

    def request(
        self,
        script: str,
        *arguments: str | int,
        by: str,
        reason: str,
        event_id: str | None,
        details: str = "{}",
        ip_address: str | None = None,
        further_keys: Sequence[str] = (),
    ) -> Request:
        event_id = uuid7() if event_id is None else checked_uuid(event_id, "event_id")
        common = (
            event_id,
            _json(self.keys.scope),
            _json(by),
            _json(reason),
            details,
            _json(self.source),
            "null" if ip_address is None else _json(checked_address(ip_address)),
        )
        return script_request(
            load_script(script),
            (*self.keys.of_transition, *further_keys),
            (*common, *arguments),
            purpose=f"{script.replace('_', ' ')} {self.keys.state}",
            event_id=event_id,
        )

    def trip(
        self,
        reason: str,
        details: Mapping[str, Any] | None,
        tripped_by: str | None,
        event_id: str | None,
        incident_id: str | None,
        ip_address: str | None,
    ) -> Request:
        text = checked_details(details)
        operator = (details or {}).get("operator")
        if tripped_by is None and isinstance(operator, str) and operator:
            tripped_by = operator
        return self.request(
            "trip",
            uuid7() if incident_id is None else checked_uuid(incident_id, "incident_id"),
            by=checked_name(tripped_by, "tripped_by"),
            reason=checked_text(reason, "reason", _REASON_LENGTH),
            details=text,
            event_id=event_id,
            ip_address=ip_address,
        )

    def reset(
        self,
        reset_by: str | None,
        reason: str | None,
        event_id: str | None,
        expected_incident_id: str | None,
        ip_address: str | None,
        quiet_period: float,
        interval: float,
        details: Mapping[str, Any] | None = None,
        token: ResetToken | None = None,
        ends_watched: bool = False,
    ) -> Callable[[int | None], Request]:
        """Checks everything at once; the reset itself is what this returns, given the epoch that is meant.

        That epoch is None for a state that has none.
        """
        event_id = uuid7() if event_id is None else checked_uuid(event_id, "event_id")
        incident_id = (
            "" if expected_incident_id is None else checked_text(expected_incident_id, "expected_incident_id", 64)
        )
        by = checked_name(reset_by, "reset_by")
        why = "" if reason is None else checked_text(reason, "reason", _RESET_REASON_LENGTH)
        address = None if ip_address is None else checked_address(ip_address)
        said = checked_details(details)

        def at_epoch(epoch: int | None) -> Request:
            return self.request(
                "reset",
                round(quiet_period * 1000),
                round(interval * 1000),
                "none" if epoch is None else checked_epoch(epoch),
                incident_id,
                int(ends_watched),
                *((token.value, token.spent) if token else ()),
                by=by,
                reason=why,
                event_id=event_id,
                details=said,
                ip_address=address,
                further_keys=(token.key,) if token else (),
            )

        return at_epoch

    def end_quiet_period(
        self, expected_epoch: int, by: str | None, event_id: str | None, watch: Watching | None = None
    ) -> Request:
        watch = watch or Watching(self.keys.key("reset_watch"), "", 0.0, 0.0)
        return self.request(
            "end_quiet_period",
            checked_epoch(expected_epoch),
            watch.holder,
            round(watch.silent * 1000),
            round(watch.lasting * 1000),
            by=checked_name(by, "by"),
            reason="QUIET_PERIOD_END",
            event_id=event_id,
            further_keys=(watch.key,),
        )

    def initialize(self, force: bool, by: str | None, event_id: str | None) -> Request:
        return self.request(
            "initialize",
            1 if force else 0,
            by=checked_name(by, "by"),
            reason="INITIALIZE_FORCED" if force else "INITIALIZE",
            event_id=event_id,
        )

    def status(self) -> Request:
        # TIME first: a state can then only be judged by a clock that is not ahead of it, which errs to the strict side.
        return Request(f"read {self.keys.state}", (("TIME",), ("GET", self.keys.state)))

    def state_before_reset(self) -> Request:
        """For the epoch of the state that a reset is meant for."""
        return replace(self.status(), purpose=f"reset {self.keys.state}", precedes_transition=True)

    def history(self, limit: int) -> Request:
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1_000:
            raise InvalidInput(f"limit is {limit!r:.40}; use a whole number from 1 to 1000.")
        return Request(f"read {self.keys.history}", (("ZREVRANGE", self.keys.history, 0, limit - 1),))


def request_builder(scope: str, source: str) -> RequestBuilder:
    """Raises InvalidInput for a scope or source that can't be used."""
    if source not in SOURCES:
        raise InvalidInput(f"source is {source!r:.40}; use one of {', '.join(sorted(SOURCES))}.")
    return RequestBuilder(Keys.of(scope), source)


def read_status_replies(replies: Sequence[Any], keys: Keys) -> Status:
    """The status that the replies to `RequestBuilder.status` tell."""
    clock, raw = replies
    raise_if_error(clock)
    now = microseconds_of(clock)
    if isinstance(raw, Exception) and "WRONGTYPE" in str(raw):
        return wrong_type_status(keys.state, now)
    raise_if_error(raw)
    return read_status(raw, now, key=keys.state)


def read_history_reply(reply: Any, keys: Keys) -> History:
    """The reply to `RequestBuilder.history`. Raises StateConflict if what is stored there is no history."""
    if isinstance(reply, Exception) and "WRONGTYPE" in str(reply):
        raise StateConflict(f"{keys.history} is not a sorted set; no history can be read. {_rename_hint(keys.history)}")
    raise_if_error(reply)
    return read_history(reply)


def read_transition_reply(reply: Any, keys: Keys) -> Status:
    """The status after a transition. Raises what the script refused with; then nothing has changed."""
    raise_if_error(reply)
    outcome, kind, raw, *clock, extra = reply
    now = microseconds_of(clock)
    status = wrong_type_status(keys.state, now)
    if kind in (b"string", b"none"):
        status = read_status(raw if kind == b"string" else None, now, key=keys.state)
    if outcome not in (b"DONE", b"REPEATED", b"UNCHANGED"):
        raise _refusal(outcome.decode(), extra.decode(), status, keys)
    return status


def _refusal(outcome: str, extra: str, status: Status, keys: Keys) -> BreakerError:
    now = f"{keys.state} is {status.state}" + (f", epoch {status.epoch}" if status.epoch is not None else "")
    if outcome == "NOT_TRIPPED":
        return NotTripped(f"Not TRIPPED: {now}. Nothing was changed; {_alternative_to_reset(extra, keys)}.")
    if outcome == "RATE_LIMITED":
        return _rate_limited(int(extra), keys)
    refusals: dict[str, BreakerError] = {
        "EPOCH_DIFFERS": StateConflict(
            f"Somebody else changed the breaker meanwhile: {now}. Nothing was changed; look at it and decide again."
        ),
        "INCIDENT_DIFFERS": StateConflict(
            f"Another incident is in progress ({status.incident_id}): {now}. Nothing was changed; look at it first."
        ),
        "TOKEN_SPENT": StateConflict(
            f"What this reset was decided by has been used or withdrawn: {now}. Nothing was changed; decide again."
        ),
        "NOT_QUIET": StateConflict(f"There is no quiet period to end: {now}. Nothing was changed."),
        "UNWATCHED": QuietPeriodUnwatched(f"Only its watch ends this quiet period, and {extra}. Nothing was changed."),
        "GARBAGE": StateConflict(
            f"{status.problem or keys.state} Nothing was changed; trading stays closed until one of the two is done."
        ),
        "IN_FORCE": StateConflict(
            f"{now}, which initialising never overwrites. Nothing was changed; reset it, or let the quiet period end."
        ),
        "WRONG_TYPE": StateConflict(f"{extra}; nothing was changed. {_rename_hint(extra.split(' ', 1)[0])}"),
        "REUSED": InvalidInput("The event_id belongs to another transition; nothing was changed. Use a new one."),
        "FORBIDDEN": RedisRefused(
            f"Redis's access rules don't let this user run {extra}; nothing was changed. Grant it (ACL SETUSER)."
        ),
    }
    return refusals[outcome]


def _alternative_to_reset(state: str, keys: Keys) -> str:
    if state in ("OPEN", "QUIET_PERIOD"):
        return "no reset is needed"
    force = " --force" if state == "UNKNOWN" else ""
    return f"trip it, or initialise it with `breaker init{force}{of_scope(keys.scope)}`"


def _rate_limited(milliseconds: int, keys: Keys) -> ResetRateLimited:
    if milliseconds < 0:
        return ResetRateLimited(
            f"Rate limit exceeded: {keys.reset_rate_limit} was set by hand and has no expiry. Nothing was changed; "
            f"DEL {keys.reset_rate_limit} to allow resets.",
            retry_after=60.0,
        )
    retry_after = max(milliseconds, 1) / 1000
    return ResetRateLimited(
        "Rate limit exceeded: a reset of this or another scope came just before. Nothing was changed; "
        f"try again in {math.ceil(retry_after)} s.",
        retry_after=retry_after,
    )


def _rename_hint(key: str) -> str:
    return f"Look at it, then move it aside: redis-cli RENAME {key} {key}:corrupt"


def raise_if_error(reply: Any) -> None:
    """Turn an error that Redis replied with into RedisRefused."""
    if isinstance(reply, Exception):
        raise RedisRefused(f"Redis answered with an error: {one_line(reply)}. Nothing is known to have changed.")


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
