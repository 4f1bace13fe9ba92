"""Tell people once when a measurement comes near the limit of its rule, before anything trips.

The scripts that judge write each crossing into one stream; whoever reads it claims the entry before it tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from breaker.keys import GLOBAL
from breaker.rule_requests import WARNINGS
from configuration.settings import Settings
from tasks.checks.probe import redis_reader
from tasks.notification import Notification, NotificationKind, console_page
from tasks.transition_notices import LOOKED_AT, RECENT, TOLD, Told, notified_key, tell_once


async def tell_warnings(settings: Settings) -> list[Told]:
    """Tell what came near its limit lately and nobody has told yet, oldest first.

    Raises BreakerUnavailable or RedisRefused.
    """
    if not settings.notifications.any_channel:
        return []
    async with redis_reader(settings) as redis:
        since = (await redis.now()) // 1_000 - round(RECENT.total_seconds() * 1_000)
        (entries,) = await redis.ask(
            f"read {WARNINGS}", ("XREVRANGE", WARNINGS, "+", str(max(since, 0)), "COUNT", LOOKED_AT)
        )
        if not entries:
            return []
        asked = (("GET", notified_key(_identity(entry))) for entry, _ in entries)
        states = await redis.ask("read what was told", *asked)
    told: list[Told] = []
    waiting: set[str] = set()
    """Alerts of which something is still to be told: what came after it would be undone by it."""
    for (entry, fields), state in reversed([*zip(entries, states, strict=True)]):
        notification = warning_notification(_fields(fields), settings.recovery.console_url, settings.environment)
        if notification is None or state == TOLD.encode():
            continue
        alert = notification.incident_id
        if state is not None or alert in waiting:
            waiting.add(alert)
            continue
        each = await tell_once(settings, _identity(entry), notification)
        if each is None or not each.delivered:
            waiting.add(alert)
        if each is not None:
            told.append(each)
    return told


def _identity(entry: bytes) -> str:
    return f"rule-warning:{entry.decode()}"


def warning_notification(
    fields: Mapping[str, str], console_url: str | None, environment: str = ""
) -> Notification | None:
    """What people are told of one entry; None for what none of our scripts wrote.

    All of one rule and scope is one alert, of which there is one in each environment.
    """
    try:
        rule, scope, percent = fields["rule"], fields["scope"], int(fields["percent"])
        details: dict[str, Any] = json.loads(fields["details"])
        measured, limit = details["measured"], details["limit"]
    except (KeyError, ValueError, TypeError):
        return None
    of = "" if scope == GLOBAL else f" of {scope}"
    window = f" {details['window']}" if details.get("window") else ""
    alert = " ".join(filter(None, ("rule-warning", environment, rule, scope)))
    if percent == 0:
        return Notification(
            NotificationKind.RULE_WARNING_OVER,
            alert,
            f"{rule}{of} is well below its early warnings again",
            f"Measured {measured}{window}; it trips beyond {limit}.",
            "info",
            console_page(console_url, "circuit-breaker", scope),
        )
    return Notification(
        NotificationKind.RULE_WARNING,
        alert,
        f"{rule}{of} is past {percent} % of its limit",
        f"Measured {measured}{window}; it trips beyond {limit}. Nothing has been halted.",
        "warning",
        console_page(console_url, "circuit-breaker", scope),
    )


def _fields(raw: Sequence[bytes]) -> dict[str, str]:
    words = [word.decode("utf-8", "replace") for word in raw]
    return dict(zip(words[::2], words[1::2], strict=True))
