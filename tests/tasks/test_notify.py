"""Notifications as a local HTTP server receives them; what doesn't arrive is known, on record, and holds nobody up."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.uuid7 import uuid7
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.queries import Filter
from sandbox.child_process import free_port
from tasks.notification import Notification, NotificationKind, pagerduty_event, slack_message
from tasks.notify import NOTIFICATION_FAILED, RECORD_WAIT, DeliveryFailure, notify
from tests.tasks.web import Answer, Asked, Web

INCIDENT = uuid7()
ROUTING_KEY = "R0123456789ABCDEF0123456789ABCDE"
HOOK = "/services/T00/B00/SECRETSECRET"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


def configured(tmp_path: Path, **notifications: Any) -> Settings:
    return Settings(state_dir=tmp_path, notifications={"timeout": 2.0, **notifications})


def note(kind: NotificationKind = NotificationKind.TRIPPED, **changes: Any) -> Notification:
    fields = {
        "title": "Trading halted",
        "body": "Drawdown 6 % > 5 %",
        "severity": "critical",
        "link": "http://console/",
    }
    return Notification(**{"kind": kind, "incident_id": INCIDENT, **fields, **changes})


def recorded(settings: Settings) -> list[dict[str, Any]]:
    """What the ledger says of failed deliveries once the spool is drained into it."""
    ledger = open_ready_ledger(settings)
    open_spool(settings).drain(ledger)
    rows = ledger.query(Filter(actions=(NOTIFICATION_FAILED,))).rows
    ledger.close()
    return [{"incident_id": row.incident_id, "outcome": row.outcome, **row.details} for row in rows]


async def test_slack_receives_its_own_format(web: Web, tmp_path: Path) -> None:
    settings = configured(tmp_path, slack=web.url + HOOK)
    assert await notify(settings, note(title="Halted: <AAPL> & co")) == []
    (asked,) = web.asked
    assert (asked.method, asked.path) == ("POST", HOOK)
    assert "Halted: &lt;AAPL&gt; &amp; co" in asked.json["text"]
    header, section, context = asked.json["blocks"]
    assert header["type"] == "header" and "Halted: <AAPL> & co" in header["text"]["text"]
    assert section["text"] == {"type": "mrkdwn", "text": "Drawdown 6 % &gt; 5 %"}
    assert INCIDENT in context["elements"][0]["text"] and "<http://console/|Open>" in context["elements"][0]["text"]


async def test_the_environment_comes_first_where_it_has_a_name(web: Web, tmp_path: Path) -> None:
    settings = configured(
        tmp_path, slack=f"{web.url}/services/hook", pagerduty=ROUTING_KEY, pagerduty_url=f"{web.url}/v2"
    )
    named = settings.model_copy(update={"environment": "production"})
    assert await notify(named, note(NotificationKind.TRIPPED)) == []
    said = {asked.path: asked.json for asked in web.asked}
    assert said["/v2"]["payload"]["summary"] == "[production] Trading halted"
    assert "[production] Trading halted" in said["/services/hook"]["text"]


async def test_one_pagerduty_incident_is_opened_told_more_and_resolved(web: Web, tmp_path: Path) -> None:
    settings = configured(tmp_path, pagerduty=ROUTING_KEY, pagerduty_url=f"{web.url}/v2/enqueue")
    course = (
        NotificationKind.TRIPPED,
        NotificationKind.KILL_REPORT,
        NotificationKind.STUCK,
        NotificationKind.WAITING,
        NotificationKind.RESET,
        NotificationKind.RETRIPPED,
        NotificationKind.RECOVERED,
    )
    for kind in course:
        assert await notify(settings, note(kind)) == []
    events = [asked.json for asked in web.asked]
    assert {event["dedup_key"] for event in events} == {INCIDENT}
    assert {event["routing_key"] for event in events} == {ROUTING_KEY}
    assert [event["event_action"] for event in events] == ["trigger"] * 5 + ["resolve"]
    first = events[0]
    assert first["payload"]["severity"] == "critical"
    assert first["payload"]["summary"] == "Trading halted"
    assert first["payload"]["source"] == "breaker"
    assert first["links"][0]["href"] == "http://console/"


async def test_any_other_service_is_reached_by_its_apprise_url(web: Web, tmp_path: Path) -> None:
    settings = configured(tmp_path, others=[f"json://127.0.0.1:{web.port}/hook"])
    web.answering = lambda _: Answer(200)
    assert await notify(settings, note()) == []
    (asked,) = web.asked
    assert asked.json["title"] == "Trading halted"
    assert INCIDENT in asked.json["message"] and "Drawdown" in asked.json["message"]
    assert asked.json["type"] == "failure"


async def test_with_nothing_configured_nothing_is_sent(tmp_path: Path) -> None:
    assert await notify(configured(tmp_path), note()) == []


@pytest.mark.parametrize("trouble", [Answer(503, "down"), Answer(429, "slow down", {"Retry-After": "0.1"})])
async def test_a_passing_trouble_is_tried_again(web: Web, tmp_path: Path, trouble: Answer) -> None:
    answers = iter([trouble, trouble])
    web.answering = lambda _: next(answers, Answer(200))
    settings = configured(tmp_path, slack=web.url + HOOK, timeout=5)
    assert await notify(settings, note()) == []
    assert len(web.asked) == 3


async def test_a_refusal_is_not_repeated_and_is_on_record(web: Web, tmp_path: Path) -> None:
    web.answering = lambda _: Answer(400, "invalid_payload")
    settings = configured(tmp_path, slack=web.url + HOOK)
    (failure,) = await notify(settings, note())
    assert failure == DeliveryFailure("slack", "not delivered: it answered 400 invalid_payload")
    assert len(web.asked) == 1
    (row,) = recorded(settings)
    assert row["incident_id"] == INCIDENT and row["outcome"] == "FAILED"
    assert (row["channel"], row["kind"], row["title"]) == ("slack", "TRIPPED", "Trading halted")


async def test_promise_10_one_channels_trouble_is_not_anothers_and_nobody_is_held_up(web: Web, tmp_path: Path) -> None:
    never = threading.Event()

    def answer(asked: Asked) -> Answer:
        return Answer(wait=never) if asked.path == HOOK else Answer(202)

    web.answering = answer
    settings = configured(
        tmp_path,
        slack=web.url + HOOK,
        pagerduty=ROUTING_KEY,
        pagerduty_url=f"{web.url}/v2/enqueue",
        others=[f"json://127.0.0.1:{free_port()}", "nonsense://x"],
        timeout=1.0,
    )
    begun = time.monotonic()
    failures = await notify(settings, note())
    assert time.monotonic() - begun < 1.0 + RECORD_WAIT + 10
    assert sorted(failure.channel for failure in failures) == ["json", "nonsense", "slack"]
    assert [asked.path for asked in web.asked].count("/v2/enqueue") == 1
    assert sorted(row["channel"] for row in recorded(settings)) == ["json", "nonsense", "slack"]


async def test_a_full_disk_is_told_and_not_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = f"http://127.0.0.1:{free_port()}/hook"
    settings = configured(tmp_path / "file", slack=nowhere, timeout=0.5)
    failures = await notify(settings, note(NotificationKind.VERIFICATION_FAILED, incident_id="health-verification"))
    assert [failure.channel for failure in failures] == ["slack", "record"]


async def test_no_secret_is_in_a_message_a_failure_a_record_or_a_log(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.answering = lambda asked: Answer(500, f"bad key {ROUTING_KEY} at {HOOK}") if asked.path == HOOK else Answer(202)
    settings = Settings(
        state_dir=tmp_path,
        accounts={"A": {"base_url": "http://v", "key_id": "PKLIVE12345", "secret_key": "hunter2222"}},
        notifications={
            "slack": web.url + HOOK,
            "pagerduty": ROUTING_KEY,
            "pagerduty_url": f"{web.url}/v2/enqueue",
            "timeout": 10.0,
        },
    )
    failures = await notify(settings, note(body="venue refused PKLIVE12345: password=hunter2222"))
    told = next(asked for asked in web.asked if asked.path != HOOK).json["payload"]
    everything = json.dumps([told, recorded(settings), [str(failure) for failure in failures]])
    assert "venue refused" in everything and failures
    for secret in ("PKLIVE12345", "hunter2222", ROUTING_KEY, "SECRETSECRET"):
        assert secret not in everything
    assert "SECRETSECRET" not in caplog.text


@given(st.builds(note, title=st.text(min_size=1), body=st.text(max_size=20_000), incident_id=st.text(max_size=400)))
def test_no_text_breaks_the_services_limits(anything: Notification) -> None:
    message = slack_message(anything)
    texts = [block["text"]["text"] for block in message["blocks"] if "text" in block]
    assert len(texts[0]) <= 150 and all(len(text) <= 3_000 for text in texts)
    assert not any(mark in text for text in texts[1:] for mark in "<>")
    event = pagerduty_event(anything, ROUTING_KEY)
    assert event is not None
    assert len(event["payload"]["summary"]) <= 1_024 and len(event["dedup_key"]) <= 255
    json.dumps([message, event])
