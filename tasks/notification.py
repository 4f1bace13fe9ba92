"""Say what people are told, in the form that each channel wants. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from breaker.keys import GLOBAL

if TYPE_CHECKING:
    from apprise import NotifyType


class NotificationKind(StrEnum):
    """What happened."""

    TRIPPED = "TRIPPED"
    NOT_TRIPPED = "NOT_TRIPPED"
    """A trip was asked for, and Redis could not be told."""
    KILL_STARTED = "KILL_STARTED"
    KILL_DECLINED = "KILL_DECLINED"
    """One that has halted, or tried to, and was not confirmed when it asked before it flattens."""
    KILL_REPORT = "KILL_REPORT"
    STUCK = "STUCK"
    WAITING = "WAITING"
    """A recovery can't go on without a person."""
    RESET = "RESET"
    RETRIPPED = "RETRIPPED"
    RECOVERED = "RECOVERED"
    RECOVERY_CANCELLED = "RECOVERY_CANCELLED"
    """Somebody cancelled its run in Prefect, so that nothing takes an answer any more."""
    VERIFICATION_FAILED = "VERIFICATION_FAILED"
    VERIFICATION_RECOVERED = "VERIFICATION_RECOVERED"
    DRILL_FAILED = "DRILL_FAILED"
    DRILL_PASSED = "DRILL_PASSED"
    RULE_WARNING = "RULE_WARNING"
    """A measurement came near the limit of its rule; nothing was halted."""
    RULE_WARNING_OVER = "RULE_WARNING_OVER"
    """It is well below its early warnings again; told to those who keep an alert open until then."""
    CHECKPOINT = "CHECKPOINT"
    """Where the audit log stands, kept by whoever gets the message: what is cut off later shows against it."""

    @property
    def label(self) -> str:
        return self.value.replace("_", " ").lower()


Severity = Literal["info", "warning", "critical"]
"""In PagerDuty's words."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One thing to tell. `incident_id` is what PagerDuty tells incidents apart by; `title` is one line."""

    kind: NotificationKind
    incident_id: str
    title: str
    body: str
    severity: Severity
    link: str | None = None


def console_page(console_url: str | None, path: str, scope: str = GLOBAL) -> str | None:
    """The page of the console about this breaker, such as `circuit-breaker`; None where no console is configured."""
    if console_url is None:
        return None
    query = "" if scope == GLOBAL else f"?{urlencode({'scope': scope})}"
    return f"{console_url.rstrip('/')}/{path}{query}"


_RESOLVES = frozenset(
    {
        NotificationKind.RECOVERED,
        NotificationKind.VERIFICATION_RECOVERED,
        NotificationKind.DRILL_PASSED,
        NotificationKind.RULE_WARNING_OVER,
    }
)
_NOT_FOR_PAGERDUTY = frozenset({NotificationKind.RESET, NotificationKind.CHECKPOINT})
"""A reset neither opens an incident nor ends it: the watch after it does. Of a checkpoint nobody is woken."""
EARLY_WARNINGS = frozenset({NotificationKind.RULE_WARNING, NotificationKind.RULE_WARNING_OVER})
"""What PagerDuty is told only where that is asked for: nothing has been halted."""
FOR_PAGERDUTY_ALONE = frozenset({NotificationKind.RULE_WARNING_OVER})
"""What ends an alert, and is no news to anybody else."""
_MARKS: dict[Severity, str] = {"info": "ℹ️", "warning": "⚠️", "critical": "🛑"}
_SLACK_HEADER, _SLACK_SECTION = 150, 3_000
_PAGERDUTY_SUMMARY, _PAGERDUTY_KEY, _PAGERDUTY_BODY = 1_024, 255, 8_000


def pagerduty_event(notification: Notification, routing_key: str) -> dict[str, Any] | None:
    """The Events API v2 request: opens the incident, adds to it, or resolves it; None for what is not PagerDuty's."""
    if notification.kind in _NOT_FOR_PAGERDUTY:
        return None
    event: dict[str, Any] = {"routing_key": routing_key, "dedup_key": notification.incident_id[:_PAGERDUTY_KEY]}
    if notification.kind in _RESOLVES:
        return {**event, "event_action": "resolve"}
    links = [{"href": notification.link, "text": "Open"}] if notification.link else []
    return {
        **event,
        "event_action": "trigger",
        "client": "breaker",
        "links": links,
        "payload": {
            "summary": notification.title[:_PAGERDUTY_SUMMARY],
            "source": "breaker",
            "component": "circuit breaker",
            "class": notification.kind.label,
            "severity": notification.severity,
            "custom_details": {"incident": notification.incident_id, "text": notification.body[:_PAGERDUTY_BODY]},
        },
    }


def slack_message(notification: Notification) -> dict[str, Any]:
    """The body of an incoming webhook: blocks, and the text that stands for them in a notification."""
    title = f"{_MARKS[notification.severity]} {notification.title}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title[:_SLACK_HEADER], "emoji": True}}
    ]
    if notification.body:
        blocks.append(
            {"type": "section", "text": {"type": "mrkdwn", "text": _escaped(notification.body, _SLACK_SECTION)}}
        )
    context = f"{notification.kind.label} · incident `{_escaped(notification.incident_id, 100)}`"
    if notification.link:
        context += f" · <{notification.link}|Open>"
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": context}]})
    return {"text": _escaped(title, _SLACK_SECTION), "blocks": blocks}


def plain_text(notification: Notification) -> str:
    """The body for every other channel."""
    lines = [notification.body, "", f"Incident {notification.incident_id}", notification.link or ""]
    return "\n".join(lines).strip()


def apprise_type(notification: Notification) -> NotifyType:
    from apprise import NotifyType  # noqa: PLC0415  slow to import

    if notification.kind in _RESOLVES:
        return NotifyType.SUCCESS
    named = {"info": NotifyType.INFO, "warning": NotifyType.WARNING}
    return named.get(notification.severity, NotifyType.FAILURE)


def _escaped(text: str, limit: int) -> str:
    """`text` as Slack shows it unchanged; cut before escaping, so that no escape is cut in two."""

    def escape(part: str) -> str:
        return part.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    kept = text[:limit]
    while len(escape(kept)) > limit:
        kept = kept[: len(kept) - (len(escape(kept)) - limit + 4) // 5]
    return escape(kept)
