"""Evidence of a real trip: everything configured is in it, no secret is, and what could not be read is named."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.settings import LogSettings, Settings
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox
from ledger.record import AuditRecord
from sandbox.child_process import free_port
from tasks.recovery import log_tail, steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.evidence import Evidence, LogTail, Trip, sparkline
from tasks.recovery.evidence_gathering import gather_evidence, incident_time
from tasks.recovery.evidence_store import KEPT, MOST, evidence_key, keep_evidence, read_evidence
from tasks.recovery.state import RecoveryState
from tests.helpers import in_time
from tests.tasks.recovery.conftest import Configure
from tests.tasks.web import Answer, Web, prometheus

DETAILS = {"operator": "ada", "reason": "spreads blew out", "api_key": "PK123456789", "note": "password=hunter2222"}


def trip(settings: Settings, client: redis.Redis, *, drained: bool) -> str:
    """Trip, have a kill switch report, and return the incident."""
    breaker = CircuitBreaker(client)
    breaker.initialize_state(by="test")
    status = breaker.trip("MANUAL", details=DETAILS, tripped_by="ada")
    breaker.close()
    incident = status.incident_id
    assert incident is not None
    if drained:
        ledger = open_ready_ledger(settings)
        drain_outbox(client, ledger)
        report = {"flat": True, "flat_after": "2.400", "token": "abcdef"}
        said = AuditRecord(action="KILL_SWITCH_FINISHED", source="cli", incident_id=incident, details=report)
        ledger.append([said, AuditRecord(action="ORDERS_CANCELED", source="cli", details={"beside": "it"})])
        ledger.close()
    return incident


async def test_everything_configured_is_in_it(
    configure: Configure, redis_client: redis.Redis, web: Web, tmp_path: Path
) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("".join(f"line {number} <b> | x\n" for number in range(50)) + "connecting with token=s3cr3t42\n")
    web.answering = prometheus({"errors": [0, 0, 7, 2]})
    settings = configure(
        recovery={
            "prometheus_url": web.url,
            "panels": {"API errors": "errors", "nothing": "nothing"},
            "services": {"gateway": {"log": {"file": log, "lines": 10}}},
        }
    )
    incident = trip(settings, redis_client, drained=True)
    found = await gather_evidence(settings, incident, "global")
    assert isinstance(found.trip, Trip)
    assert (found.trip.reason, found.trip.by, found.trip.source) == ("MANUAL", "ada", "ledger")
    assert {event.what for event in found.ledger} >= {"CIRCUIT_BREAKER_TRIP", "KILL_SWITCH_FINISHED", "ORDERS_CANCELED"}
    assert [event.what for event in found.history] == ["INITIALIZE: MISSING → OPEN", "TRIP: OPEN → TRIPPED"]
    (panel,) = found.panels
    assert (panel.panel, panel.minimum, panel.maximum, panel.last, panel.sparkline) == ("API errors", 0, 7, 2, "▁▁█▃")
    asked = next(asked for asked in web.asked if asked.query["query"] == "errors").query
    assert float(asked["start"]) == pytest.approx((found.trip.at - timedelta(minutes=15)).timestamp())
    (tail,) = found.logs
    assert len(tail.lines) == 10 and tail.lines[0].startswith("line 41")
    assert found.kill_report is not None and found.kill_report["flat_after"] == "2.400"
    assert set(found.unread) == {"panel nothing"}

    page = found.as_markdown()
    for words in (
        "MANUAL",
        "spreads blew out",
        "API errors",
        "▁▁█▃",
        "line 49",
        "flat_after",
        "panel nothing",
        str(log),
    ):
        assert words in page
    for secret in ("PK123456789", "hunter2222", "s3cr3t42", "abcdef"):
        assert secret not in page


async def test_it_is_kept_for_people_before_they_are_asked(
    configure: Configure, redis_client: redis.Redis, tmp_path: Path
) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("\x1b[2Jcleared\nconnecting with token=s3cr3t42\n")
    settings = configure(recovery={"services": {"gateway": {"log": {"file": log}}}})
    incident = trip(settings, redis_client, drained=False)
    async with Redis.from_url(settings.redis_url.get_secret_value()) as client:
        state = RecoveryState(incident_id=incident, scope="global", flow_run_id="a run")
        token = current_recovery.set(RecoveryContext(settings, client, None, None, state))  # type: ignore[arg-type]
        try:
            gathered = (await steps.gather_evidence.fn(round_=1))["markdown"]
        finally:
            current_recovery.reset(token)
        kept = await read_evidence(client, incident)
        assert await read_evidence(client, uuid7()) is None
        assert 0 < await client.ttl(evidence_key(incident)) <= KEPT
        await keep_evidence(client, incident, "x" * (MOST + 1))
        assert "cut here" in str(await read_evidence(client, incident))
    assert kept is not None and "spreads blew out" in kept and "cleared" in kept
    assert kept.splitlines() == gathered.replace("\x1b", "\ufffd").splitlines()
    assert "\x1b" not in kept and "s3cr3t42" not in kept


async def test_before_the_ledger_has_it_redis_tells_of_the_trip(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    incident = trip(settings, redis_client, drained=False)
    found = await gather_evidence(settings, incident, "global")
    assert found.trip is not None and found.trip.source == "history in Redis"
    redis_client.delete("circuit_breaker:history")
    found = await gather_evidence(settings, incident, "global")
    assert found.trip is not None and (found.trip.reason, found.trip.source) == ("MANUAL", "state in Redis")


async def test_with_everything_down_each_source_is_named(configure: Configure, web: Web, tmp_path: Path) -> None:
    nowhere = free_port()
    web.answering = lambda _: Answer(500, "broken")
    settings = configure(
        redis_url=f"redis://127.0.0.1:{nowhere}",
        redis_timeout=0.3,
        database_url=f"postgresql://x:hunter2222@127.0.0.1:{nowhere}/x",
        recovery={
            "prometheus_url": web.url,
            "panels": {"p": "errors"},
            "services": {"gateway": {"log": {"file": tmp_path / "none.log"}}, "feed": {"log": {"journal": "x\0"}}},
        },
    )
    found = await gather_evidence(settings, uuid7(), "global")
    assert found.trip is None
    assert set(found.unread) == {
        "the breaker in Redis",
        "the history in Redis",
        "the ledger",
        "panel p",
        "log of gateway",
        "log of feed",
    }
    page = found.as_markdown()
    assert all(name in page for name in found.unread)
    assert "hunter2222" not in page


# --- logs


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which commands are found first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


async def test_a_containers_log_has_both_its_streams(tools: Path) -> None:
    tool(tools, "docker", '[ "$*" = "logs --tail 5 execution_gateway" ] && echo out && echo err >&2')
    assert await log_tail.read_log_tail(LogSettings(docker="execution_gateway", lines=5)) == ["out", "err"]


async def test_a_units_journal_is_asked_for_its_last_lines(tools: Path) -> None:
    tool(tools, "journalctl", 'echo "$*"')
    (line,) = await log_tail.read_log_tail(LogSettings(journal="gateway.service", lines=7))
    assert "-n 7 -u gateway.service" in line


async def test_a_tool_that_fails_is_quoted(tools: Path) -> None:
    tool(tools, "docker", "echo 'No such container' >&2; exit 1")
    with pytest.raises(log_tail.LogUnreadable, match="No such container"):
        await log_tail.read_log_tail(LogSettings(docker="gateway"))


async def test_a_tool_that_hangs_is_ended(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_tail, "DEADLINE", 0.3)
    tool(tools, "docker", "exec sleep 60")
    with in_time(0.3), pytest.raises(log_tail.LogUnreadable, match="did not end"):
        await log_tail.read_log_tail(LogSettings(docker="gateway"))


async def test_of_a_flood_only_the_end_is_kept(tools: Path, tmp_path: Path) -> None:
    tool(tools, "docker", "seq 1 200000")
    assert (await log_tail.read_log_tail(LogSettings(docker="gateway", lines=3)))[-1] == "200000"
    big = tmp_path / "big.log"
    big.write_text("x" * 5_000_000 + "\nlast\n")
    lines = await log_tail.read_log_tail(LogSettings(file=big))
    assert lines[-1] == "last"
    assert max(len(line) for line in lines) <= log_tail.LONGEST_LINE


async def test_a_pipe_that_nobody_writes_to_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with in_time(0), pytest.raises(log_tail.LogUnreadable):
        await log_tail.read_log_tail(LogSettings(file=tmp_path / "pipe"))


# --- as a page


def test_nothing_in_a_log_can_end_its_block() -> None:
    logs = (LogTail("gateway", "docker logs gateway", ("```", "# not a heading", "````")),)
    page = Evidence("i", "global", datetime.now(UTC), logs=logs).as_markdown()
    assert "\n`````\n```\n# not a heading\n````\n`````\n" in page


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=200))
def test_a_sparkline_shows_where_the_peak_was(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == min(40, len(values))
    if max(values) > min(values):
        peak = values.index(max(values)) * len(line) // len(values)
        assert "█" in line[max(0, peak - 1) : peak + 2]


def test_an_incidents_id_says_when_it_began() -> None:
    assert abs((incident_time(uuid7()) - datetime.now(UTC)).total_seconds()) < 1
    assert abs((incident_time("no uuid") - datetime.now(UTC)).total_seconds()) < 1
