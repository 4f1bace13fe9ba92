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
