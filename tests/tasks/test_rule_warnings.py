"""What comes near its limit is told once, however many processes look."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

from breaker.rules import Rules
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.rule_warnings import tell_warnings
from tests.tasks.web import Answer, Web


async def test_several_processes_tell_one_warning_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    with Web(lambda _: Answer(200)) as web:
        settings = Settings.model_validate(
            {"redis_url": redis_server.url, "state_dir": tmp_path, "notifications": {"slack": f"{web.url}/hook"}}
        )
        rules = Rules(redis_client, "account:ALPHA")
        rules.record_equity(100)
        rules.record_equity(97)
        redis_client.xadd("circuit_breaker:rule_warnings", {"rule": "somebody else's"})
        told = await asyncio.gather(*(tell_warnings(settings) for _ in range(3)))
        assert len([each for some in told for each in some]) == len(web.asked) == 1
        assert "DRAWDOWN of account:ALPHA is past 50 % of its limit" in str(web.asked[0].json)
        rules.record_equity("95.5")
        (again,) = await tell_warnings(settings)
        assert again.delivered and "past 80 %" in again.notification.title
        rules.record_equity("99")
        (over,) = await tell_warnings(settings)
        assert over.delivered and len(web.asked) == 2, "that it is over is no news where nothing was opened"


@pytest.mark.parametrize("asked_for", [False, True])
async def test_pagerduty_gets_an_alert_of_each_rule_and_scope_where_that_is_asked_for(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, asked_for: bool
) -> None:
    with Web(lambda _: Answer(202)) as web:
        channels = {"pagerduty": "k" * 32, "pagerduty_url": f"{web.url}/v2", "pagerduty_warnings": asked_for}
        settings = Settings.model_validate(
            {
                "redis_url": redis_server.url,
                "state_dir": tmp_path,
                "environment": "paper",
                "notifications": {**channels, "slack": f"{web.url}/hook"},
            }
        )
        for scope in ("account:ALPHA", "account:BETA"):
            rules = Rules(redis_client, scope)
            for equity in (100, 97, "95.5", 99):
                rules.record_equity(equity)
            rules.close()
        await tell_warnings(settings)
        events = [asked.json for asked in web.asked if asked.path == "/v2"]
        assert len([asked for asked in web.asked if asked.path == "/hook"]) == 4
    if not asked_for:
        assert events == []
        return
    assert [event["event_action"] for event in events] == ["trigger", "trigger", "resolve"] * 2
    keys = [event["dedup_key"] for event in events]
    assert keys == ["rule-warning paper DRAWDOWN account:ALPHA"] * 3 + ["rule-warning paper DRAWDOWN account:BETA"] * 3
    assert {event["payload"]["severity"] for event in events if event["event_action"] == "trigger"} == {"warning"}


async def test_an_alert_that_could_not_be_opened_or_resolved_is_told_again_and_in_order(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """What is opened after it was resolved stays open for ever; so does what Slack took and PagerDuty did not."""
    with Web(lambda asked: Answer(202 if asked.path == "/hook" else 400)) as web:
        channels = {"pagerduty": "k" * 32, "pagerduty_url": f"{web.url}/v2", "pagerduty_warnings": True}
        alone = {"redis_url": redis_server.url, "state_dir": tmp_path, "notifications": channels}
        rules = Rules(redis_client)
        rules.record_equity(100)
        rules.record_equity(97)
        (failed,) = await tell_warnings(Settings.model_validate(alone))
        assert not failed.delivered
        web.answering = lambda _: Answer(202)
        rules.record_equity(99)
        assert await tell_warnings(Settings.model_validate(alone)) == [], "opening it is about to be tried again"

        def later() -> None:
            redis_client.delete(*redis_client.scan_iter("circuit_breaker:notified:*"))

        later()
        both = Settings.model_validate({**alone, "notifications": {**channels, "slack": f"{web.url}/hook"}})
        web.answering = lambda asked: Answer(400 if b"resolve" in asked.body else 202)
        opened, over = await tell_warnings(both)
        assert opened.delivered and not over.delivered, "Slack is not told that it is over"
        rules.close()


async def test_what_goes_to_no_channel_but_one_that_fails_was_told_to_nobody(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    with Web(lambda _: Answer(400)) as web:
        channels = {"pagerduty": "k" * 32, "pagerduty_url": f"{web.url}/v2", "slack": f"{web.url}/hook"}
        rules = Rules(redis_client)
        rules.record_equity(100)
        rules.record_equity(97)
        settings = {"redis_url": redis_server.url, "state_dir": tmp_path, "notifications": channels}
        (told,) = await tell_warnings(Settings.model_validate(settings))
        assert not told.delivered and [asked.path for asked in web.asked] == ["/hook"]
        rules.close()
