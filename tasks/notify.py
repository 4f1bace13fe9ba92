"""Notify people: by Slack, PagerDuty and anything that Apprise reaches, all at once, within one deadline.

Slack gets its own message format where `notifications.slack` is a webhook's address. PagerDuty is spoken to directly,
since only so an incident can be given the breaker's incident id, told more about, and resolved. Everything else is
Apprise's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import stamina
import stamina.instrumentation
from pydantic import SecretStr

from configuration.printed_commands import with_pastable
from configuration.settings import NotificationSettings, Settings
from ledger.errors import InvalidRecord, SpoolUnavailable
from ledger.record import FAILED, AuditRecord, uuid_or_none
from ledger.spool_copy import spool_of
from tasks.notification import (
    EARLY_WARNINGS,
    FOR_PAGERDUTY_ALONE,
    Notification,
    apprise_type,
    pagerduty_event,
    plain_text,
    slack_message,
)
from tasks.redaction import configured_secrets, redact

stamina.instrumentation.set_on_retry_hooks(())  # they print on standard output, which may be an answer for machines

NOTIFICATION_FAILED = "NOTIFICATION_FAILED"
RECORD_WAIT = 1.0
"""Seconds that a failed delivery's record may take; it goes to this host's spool, and from there to the ledger."""
_ATTEMPTS = 4
_LONGEST_PAUSE = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryFailure:
    """`channel` is `slack`, `pagerduty`, or the scheme of an Apprise URL; `problem` one line without secrets."""

    channel: str
    problem: str


class _NotDelivered(Exception):
    def __init__(self, problem: str, *, worth_retrying: bool, after: float | None = None) -> None:
        super().__init__(problem)
        self.worth_retrying = worth_retrying
        self.after = after
        """Seconds that the service wants to be left alone."""


async def notify(settings: Settings, notification: Notification) -> list[DeliveryFailure]:
    """Send to every configured channel, trying again with back-off until `notifications.timeout` is over.

    Never raises, and returns within that time and `RECORD_WAIT`. What could not be delivered is returned, and recorded
    as NOTIFICATION_FAILED.
    """
    secrets = configured_secrets(settings)
    title = f"[{settings.environment}] {notification.title}" if settings.environment else notification.title
    clean = replace(notification, title=redact(title, secrets), body=with_pastable(redact(notification.body, secrets)))
    limit = settings.notifications.timeout
    sending = [_deliver(channel, send, limit) for channel, send in _channels(settings.notifications, clean)]
    results = await asyncio.gather(*sending)
    failures = [replace(found, problem=redact(found.problem, secrets)) for found in results if found is not None]
    return failures + await _record(settings, clean, failures)


_Send = Callable[[], Awaitable[None]]


def channels_of(settings: NotificationSettings, notification: Notification) -> int:
    """How many channels it goes to; none of what is news to none of those that are configured."""
    return len(_channels(settings, notification))


def _channels(settings: NotificationSettings, notification: Notification) -> list[tuple[str, _Send]]:
    channels: list[tuple[str, _Send]] = []
    if notification.kind in FOR_PAGERDUTY_ALONE:
        return _pagerduty(settings, notification)
    if settings.slack is not None:
        url = settings.slack.get_secret_value()
        if url.startswith(("https://", "http://")):
            channels.append(("slack", lambda: _post(url, slack_message(notification), settings.timeout)))
        else:
            channels.append(("slack", lambda: _by_apprise(url, notification)))
    channels += _pagerduty(settings, notification)
    return channels + [(_scheme(other), _apprise_sender(other, notification)) for other in settings.others]


def _pagerduty(settings: NotificationSettings, notification: Notification) -> list[tuple[str, _Send]]:
    if settings.pagerduty is None or (notification.kind in EARLY_WARNINGS and not settings.pagerduty_warnings):
        return []
    event = pagerduty_event(notification, settings.pagerduty.get_secret_value())
    return [] if event is None else [("pagerduty", lambda: _post(settings.pagerduty_url, event, settings.timeout))]


def _scheme(url: SecretStr) -> str:
    return url.get_secret_value().partition("://")[0][:20]


def _apprise_sender(url: SecretStr, notification: Notification) -> _Send:
    return lambda: _by_apprise(url.get_secret_value(), notification)


async def _deliver(channel: str, send: _Send, limit: float) -> DeliveryFailure | None:
    last = "it did not answer"
    try:
        async with asyncio.timeout(limit):
            async for attempt in stamina.retry_context(
                on=_pause_before_retry, attempts=_ATTEMPTS, timeout=limit, wait_initial=0.2, wait_max=_LONGEST_PAUSE
            ):
                with attempt:
                    try:
                        await send()
                    except _NotDelivered as error:
                        last = str(error)
                        raise
    except TimeoutError:
        return DeliveryFailure(channel, f"not delivered within {limit:g} s: {last}")
    except _NotDelivered as error:
        return DeliveryFailure(channel, f"not delivered: {error}")
    except Exception as error:  # a channel's mistake must reach neither the caller nor the other channels
        return DeliveryFailure(channel, f"not delivered: {type(error).__name__}")
    return None


def _pause_before_retry(error: Exception) -> bool | float:
    if not isinstance(error, _NotDelivered) or not error.worth_retrying:
        return False
    return True if error.after is None else min(error.after, _LONGEST_PAUSE)


async def _post(url: str, body: Mapping[str, Any], limit: float) -> None:
    """Raises _NotDelivered. An attempt gets a part of the time, so that a connection that died can't use it up."""
    try:
        async with httpx.AsyncClient(timeout=limit / 2) as client:
            answer = await client.post(url, json=body)
    except httpx.TransportError as error:
        raise _NotDelivered(type(error).__name__, worth_retrying=True) from None
    except httpx.InvalidURL:
        raise _NotDelivered("its address is no URL", worth_retrying=False) from None
    if answer.is_success:
        return
    said = redact(" ".join(answer.text.split())[:200])
    busy = answer.status_code == httpx.codes.TOO_MANY_REQUESTS
    raise _NotDelivered(
        f"it answered {answer.status_code} {said}".rstrip(),
        worth_retrying=busy or answer.is_server_error,
        after=_retry_after(answer) if busy else None,
    )


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return None


async def _by_apprise(url: str, notification: Notification) -> None:
    if not await asyncio.to_thread(_send_by_apprise, url, notification):
        raise _NotDelivered("the service did not take it", worth_retrying=True)


def _send_by_apprise(url: str, notification: Notification) -> bool:
    from apprise import Apprise  # noqa: PLC0415  a hundred services, slow to import

    channel = Apprise()
    if not channel.add(url):
        raise _NotDelivered("its address is no Apprise URL", worth_retrying=False)
    return bool(
        channel.notify(body=plain_text(notification), title=notification.title, notify_type=apprise_type(notification))
    )


async def _record(
    settings: Settings, notification: Notification, failures: list[DeliveryFailure]
) -> list[DeliveryFailure]:
    """Put the failures on record. Returns what kept that from happening, as a failure of its own."""
    if not failures:
        return []
    spool = spool_of(settings)
    try:
        records = [_failure_record(notification, failure) for failure in failures]
        async with asyncio.timeout(RECORD_WAIT):
            await asyncio.to_thread(spool.add, records)
    except (SpoolUnavailable, InvalidRecord, TimeoutError) as error:
        problem = str(error) or f"the spool did not take it within {RECORD_WAIT:g} s"
        _log.error("A notification was not delivered, and that is not on record: %s; %s", problem, failures)
        return [DeliveryFailure("record", problem)]
    return []


def _failure_record(notification: Notification, failure: DeliveryFailure) -> AuditRecord:
    return AuditRecord(
        action=NOTIFICATION_FAILED,
        source="flow",
        incident_id=uuid_or_none(notification.incident_id),
        details={
            "channel": failure.channel,
            "problem": failure.problem,
            "kind": notification.kind.value,
            "title": notification.title,
        },
        outcome=FAILED,
    )


class _WithoutPaths(logging.Filter):
    """httpx logs each request's whole address, and a webhook's address is its secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{part.scheme}://{part.host}" if isinstance(part, httpx.URL) else part for part in record.args
            )
        return True


logging.getLogger("httpx").addFilter(_WithoutPaths())
