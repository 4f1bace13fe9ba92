"""What comes near its limit is told once, however many processes look."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
