"""What would have tripped by another limit: a chart without scripts, its numbers as a table; no page is held up."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from console import replays
from console.auth.permissions import Role
from console.replay_chart import HEIGHT, WIDTH, chart_of, parts_of
from sandbox.embedded_redis import EmbeddedRedis
from tasks.rules_replay import Measured
from tests.console.conftest import MakeSettings
from tests.console.harness import Console
from tests.helpers import eventually

ACCOUNT = {"base_url": "http://127.0.0.1:1", "key_id": "k", "secret_key": "s"}
BEGUN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
PAGE = "/circuit-breaker/replay"


@pytest.fixture
def console(
    make_settings: MakeSettings, redis_server: EmbeddedRedis, redis_client: redis.Redis, prepared_database: Path
) -> Iterator[Console]:
    """Of a desk whose account fell by 6 % within ten minutes, an hour ago."""
    CircuitBreaker(redis_client).initialize_state()
    for minute, equity in enumerate([100, 99, 98, 96, 94, 94, 97, 99]):
        at = int((BEGUN + timedelta(minutes=minute)).timestamp() * 1000)
        redis_client.xadd("circuit_breaker:measurements:ALPHA", {"equity": equity, "currency": "USD"}, id=f"{at}-0")
    settings = make_settings(redis_server.url, accounts={"ALPHA": ACCOUNT})
    settings.state_dir.mkdir(parents=True)
    (settings.state_dir / "audit.db").write_bytes(prepared_database.read_bytes())
    with Console(settings) as running:
        yield running


def test_a_chart_and_its_numbers_are_shown_without_scripts(console: Console) -> None:
    viewer = console.visitor(Role.VIEWER)
    assert PAGE in viewer.get("/circuit-breaker").text
    asked = {"rule": "DRAWDOWN", "limit": "0.03"}
    page = viewer.get(PAGE, params=asked)
    assert page.status_code == 200, page.text
    assert "Would have tripped 1 time</b> by a limit of 3.00%, on 8 readings" in page.text
    svg = page.text[page.text.index("<svg") : page.text.index("</svg>")]
    assert 'role="img"' in svg and "<title" in svg and svg.count("<circle") == 1 and "style=" not in svg
    table = page.text[page.text.index("<tbody>") : page.text.index("</tbody>")]
    assert table.count("<tr>") == 8 and table.count('class="loss"') == 3 and "6.00%" in table and "200 %" in table
    within = viewer.get(PAGE, params={**asked, "limit": "0.1"}).text
    assert "Would not have tripped" in within and "<circle" not in within
    assert "by a limit of 0.0010%" in viewer.get(PAGE, params={**asked, "limit": "0.00001"}).text
    configured = viewer.get(PAGE, params={"rule": "DRAWDOWN"}).text
    assert "by a limit of 5.00%" in configured


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"rule": "DRAWDOWN", "limit": "5"}, 422, "the limit drawdown"),
        ({"rule": "ORDER_RATE", "limit": "5"}, 422, "is no rule that can be replayed"),
        ({"rule": "MARGIN"}, 422, "MARGIN is off: give a limit to try"),
        ({"rule": "DRAWDOWN", "since": "yesterday"}, 422, "is no time"),
        ({"rule": "DRAWDOWN", "since": "2026-03-02T10:00", "until": "2026-03-01T10:00"}, 422, "From has to be before"),
        ({"rule": "DRAWDOWN", "scope": "strategy:x"}, 422, "No account is monitored as strategy:x"),
        ({"rule": "DRAWDOWN", "since": "2000-01-01T10:00", "until": "2000-01-02T10:00"}, 200, "Nothing is recorded"),
    ],
)
def test_what_cannot_be_replayed_is_said_on_the_page(
    console: Console, asked: dict[str, str], status: int, says: str
) -> None:
    page = console.visitor(Role.VIEWER).get(PAGE, params=asked)
    assert page.status_code == status and says in page.text
    assert "<svg" not in page.text


def test_pages_come_while_one_replays_and_another_one_waits_for_its_turn(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*_: object) -> list[Measured]:
        begun.set()
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(replays, "replay_rule", slowly)
    first, second = console.visitor(Role.VIEWER), console.visitor(Role.VIEWER)
    found: list[int] = []
    asking = threading.Thread(
        target=lambda: found.append(first.get(PAGE, params={"rule": "DRAWDOWN"}).status_code), daemon=True
    )
    asking.start()
    try:
        assert begun.wait(60)
        assert second.get("/circuit-breaker").status_code == 200
        busy = second.get(PAGE, params={"rule": "DRAWDOWN"})
        assert busy.status_code == 503 and "Another replay is under way" in busy.text
    finally:
        go_on.set()
        asking.join(60)
    assert found == [200]
    eventually(lambda: second.get(PAGE, params={"rule": "DRAWDOWN"}).status_code == 200)


def test_a_replay_that_takes_too_long_is_given_up(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "WITHIN", 0.0)
    page = console.visitor(Role.VIEWER).get(PAGE, params={"rule": "DRAWDOWN"})
    assert page.status_code == 503 and "choose a shorter time" in page.text


def measured(*values: str, every: timedelta = timedelta(minutes=1)) -> list[Measured]:
    return [Measured(BEGUN + place * every, Decimal(value), value == "9") for place, value in enumerate(values)]


def test_a_peak_and_a_trip_are_in_the_part_that_they_fall_in() -> None:
    parts = parts_of(measured("1", "9", "2", "3", "4", "5"), most=3)
    assert [(part.highest, part.trips) for part in parts] == [(Decimal(9), 1), (Decimal(3), 0), (Decimal(5), 0)]
    assert (parts[0].since, parts[0].until) == (BEGUN, BEGUN + timedelta(minutes=1))
    (alone,) = parts_of(measured("1"))
    assert alone.since == alone.until == BEGUN


def test_the_line_stays_in_the_drawing_and_has_a_gap_where_nothing_was_recorded() -> None:
    some = [*measured("0", "9", "5"), Measured(BEGUN + timedelta(hours=9), Decimal(-1), False)]
    chart = chart_of(parts_of(some, most=500), Decimal(4), {Decimal(4): "4", Decimal(0): "0"})
    assert chart.line.count("M") == 2
    pairs = re.findall(r"[ML](\S+) (\S+)", chart.line)
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in pairs)
    assert len(chart.trips) == 1 and chart.trips[0].y < chart.limit.y


def test_a_few_readings_at_their_usual_distance_are_one_line_though_parts_between_them_are_empty() -> None:
    few = parts_of(measured("1", "2", "3", "2"), most=120)
    assert [part.place for part in few] != [0, 1, 2, 3]
    line = chart_of(few, Decimal(4), {Decimal(4): "4", Decimal(0): "0"}).line
    assert line.count("M") == 1 and line.count("L") == 3
