"""The pages as the runbook describes them, used as a browser without JavaScript does."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import time
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker, State
from breaker.gate import Gate
from breaker.gate.report import GateReport, ReportedGate, ReportedGates
from breaker.rules import Rules
from breaker.uuid7 import uuid7
from configuration.locations import LACKING
from console.auth.permissions import PERMISSIONS, Permission, Role
from console.live.system_health import measure_gates
from ledger.queries import Filter
from ledger.record import AuditRecord
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.measurement import Colour
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import AccountExits, PendingExit
from tasks.recovery import watch_here
from tests.console.conftest import MakeSettings
from tests.console.harness import REASON, Console, hidden_fields, lose_a_gate
from tests.helpers import PATIENT_RECOVERY, eventually

TRIP = {"reason": REASON, "acknowledge": "yes"}
WHY = "hedged at another venue until the halt is over"


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


def actions_in(console: Console, action: str) -> int:
    return len(console.ledger.query(Filter(actions=(action,))).rows)


def test_the_runbooks_trip(console: Console, breaker: CircuitBreaker) -> None:
    operator = console.visitor(Role.OPERATOR)
    page = operator.get("/circuit-breaker")
    assert "●" in page.text and "OPEN" in page.text and "trading allowed" in page.text
    assert "Trip Circuit Breaker" in page.text
    assert "Confirm Trip" in operator.get("/circuit-breaker/trip").text
    after = operator.submit("/circuit-breaker/trip", TRIP)
    assert after.url.path == "/circuit-breaker"
    assert "TRIPPED" in after.text and REASON in after.text and "the_operator" in after.text
    status = breaker.get_status()
    assert (status.state, status.trip_reason, status.tripped_by) == (State.TRIPPED, "MANUAL", "the_operator")
    eventually(lambda: actions_in(console, "CIRCUIT_BREAKER_TRIP") == 1)
    row = console.ledger.query(Filter(actions=("CIRCUIT_BREAKER_TRIP",))).rows[0]
    assert (row.user_id, row.source, row.ip_address) == ("the_operator", "console", "127.0.0.1")


def test_how_far_each_rule_is_from_its_limit_is_told_by_more_than_colour(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = Rules(redis_client)
    rules.record_equity(100)
    rules.record_equity("95.5")
    operator = console.visitor(Role.OPERATOR)
    eventually(lambda: "DRAWDOWN" in operator.get("/circuit-breaker").text)
    page = operator.get("/circuit-breaker").text
    assert 'value="0.900"' in page and "4.5000%" in page and "10 % left of 5.00%" in page
    drawdown = page[: page.index("DRAWDOWN")].rpartition("<li")[2]
    assert 'class="yellow"' in drawdown and "▲" in drawdown
    assert "nothing heard" in page[page.index("API_ERRORS") :]
    assert re.search(r"Off: [^<]*DAILY_LOSS", page)


@pytest.mark.usefixtures("no_orchestrator")
def test_the_runbooks_reset(console: Console, breaker: CircuitBreaker) -> None:
    breaker.trip("MANUAL")
    manager = console.visitor(Role.RISK_MANAGER)
    page = manager.get("/circuit-breaker/reset").text
    assert "Conditions" in page and "redis" in page and ">ledger<" in page and "api-errors" in page
    after = manager.submit("/circuit-breaker/reset", TRIP)
    assert "QUIET PERIOD" in after.text, after.text[after.text.find("<main") :]
    status = breaker.get_status()
    assert (status.state, status.reset_by, status.reset_reason) == (State.QUIET_PERIOD, "the_risk_manager", REASON)


@pytest.mark.usefixtures("no_orchestrator")
def test_promise_9_a_reset_is_watched_by_the_console_where_no_service_does(
    make_settings: MakeSettings, redis_server: EmbeddedRedis, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_here, "WATCHED_WITHIN", 0.2)
    recovery = {**PATIENT_RECOVERY, "watch": 0.6, "watch_interval": 0.05}
    with Console(make_settings(redis_server.url, quiet_period=60, recovery=recovery)) as console:
        breaker.trip("MANUAL")
        assert "QUIET PERIOD" in console.visitor(Role.RISK_MANAGER).submit("/circuit-breaker/reset", TRIP).text
        eventually(lambda: breaker.get_state() is State.OPEN, breaker.get_status)
        assert breaker.get_history(1)[0].by == "recovery watch"
        row = eventually(lambda: console.ledger.query(Filter(actions=("RESET_WATCH_ENDED",))).rows)[0]
        assert (row.outcome, row.user_id) == ("OK", f"console on {socket.gethostname()}")


def test_what_a_page_says_of_the_watch_is_so(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    visitor = console.visitor(Role.VIEWER)

    def said() -> str:
        text = visitor.get("/circuit-breaker").text
        return text.partition('data-topic="reset_watch:global">')[2].partition("</div>")[0].strip()

    assert said() == ""
    breaker.trip("MANUAL")
    epoch = breaker.reset("ada", "the feed was repaired and checked").epoch
    assert "Nobody watches the reset now" in said()
    began = int(time.time() * 1000)
    watch: dict[Any, Any] = {
        "epoch": str(epoch),
        "holder": "services on a",
        "began": str(began),
        "seen": str(began + 60_000),
        "ended": "",
    }
    redis_client.hset("circuit_breaker:reset_watch", mapping=watch)
    assert "is watched by services on a" in said() and "(in 4 min)" in said()
    redis_client.hset("circuit_breaker:reset_watch", "seen", str(began - 60_000))
    assert "Nobody watches the reset now" in said()
    breaker.end_quiet_period(expected_epoch=epoch or 0, by="recovery watch")
    redis_client.hset("circuit_breaker:reset_watch", "ended", str(began + 1000))
    ended = f"{datetime.fromtimestamp(began // 1000 + 1, UTC):%Y-%m-%d %H:%M:%S} UTC"
    assert f"ended at {ended}, nothing red" in said() and "notice" not in said()
    breaker.trip("MANUAL")
    assert said() == ""


@pytest.mark.parametrize("action", ["trip", "reset", "kill"])
def test_a_reason_is_a_sentence(console: Console, breaker: CircuitBreaker, action: str) -> None:
    if action == "reset":
        breaker.trip("MANUAL")
    before, admin = dict(breaker.get_status()), console.visitor(Role.ADMIN)
    for reason in (
        "",
        "too short",
        "x" * 19,
        " " * 30,
        "short" + " " * 30,
        *(("x" * 501, "a\nb" * 10) if action == "reset" else ()),
    ):
        fields = {"reason": reason, "acknowledge": "yes", "confirm": "FLATTEN"}
        answer = admin.submit(f"/circuit-breaker/{action}", fields)
        assert answer.status_code == 422, reason
        assert "nothing changed" in answer.text
    assert dict(breaker.get_status()) == before


@pytest.mark.parametrize(("reason", "kept"), [("a\nb" * 10, "a b" * 10), ("x" * 501, "x" * 500)])
def test_a_trip_is_not_refused_for_line_breaks_or_length(
    console: Console, breaker: CircuitBreaker, reason: str, kept: str
) -> None:
    console.visitor(Role.ADMIN).submit("/circuit-breaker/trip", {**TRIP, "reason": reason})
    assert breaker.get_status().trip_details["reason"] == kept


def test_characters_are_counted_as_they_are_typed(console: Console, breaker: CircuitBreaker) -> None:
    admin = console.visitor(Role.ADMIN)
    for trips, reason in enumerate(("x" * 20, "é" * 20, "🛑" * 20, "  " + "x" * 20 + "  "), 1):
        admin.submit("/circuit-breaker/trip", {**TRIP, "reason": reason})
        assert breaker.get_status().trip_count_today == trips


@pytest.mark.parametrize("action", ["trip", "reset", "kill"])
def test_without_the_acknowledgement_nothing_happens(console: Console, breaker: CircuitBreaker, action: str) -> None:
    if action == "reset":
        breaker.trip("MANUAL")
    before = dict(breaker.get_status())
    fields = {"reason": REASON, "confirm": "FLATTEN"}
    answer = console.visitor(Role.ADMIN).submit(f"/circuit-breaker/{action}", fields)
    assert answer.status_code == 422
    assert "acknowledgement" in answer.text
    assert REASON in answer.text, "what was typed is still there"
    assert dict(breaker.get_status()) == before


def test_a_form_sent_twice_trips_once(console: Console, breaker: CircuitBreaker) -> None:
    operator = console.visitor(Role.OPERATOR)
    form = {**TRIP, "event_id": "0190b5a0-0000-7000-8000-000000000001"}
    for _ in range(2):
        operator.submit("/circuit-breaker/trip", form)
    assert breaker.get_status().trip_count_today == 1


def test_what_was_looked_at_is_what_is_reset(console: Console, breaker: CircuitBreaker) -> None:
    breaker.trip("MANUAL")
    manager = console.visitor(Role.RISK_MANAGER)
    seen = str(breaker.get_status().epoch)
    breaker.trip("DRAWDOWN")
    answer = manager.submit("/circuit-breaker/reset", {**TRIP, "epoch": seen})
    assert answer.status_code == 409
    assert breaker.get_state() is State.TRIPPED


@pytest.mark.usefixtures("no_orchestrator")
def test_red_conditions_need_an_override_that_is_recorded(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    breaker.trip("MANUAL")
    now = redis_client.time()
    redis_client.zadd("circuit_breaker:api_errors", {f"e{n}": now[0] * 1_000_000 + now[1] for n in range(11)})
    manager = console.visitor(Role.RISK_MANAGER)
    assert "Override" in manager.get("/circuit-breaker/reset").text
    refused = manager.submit("/circuit-breaker/reset", TRIP)
    assert refused.status_code == 409
    assert "api-errors" in refused.text
    assert breaker.get_state() is State.TRIPPED
    manager.submit("/circuit-breaker/reset", {**TRIP, "override_reason": WHY})
    assert breaker.get_state() is State.QUIET_PERIOD
    assert actions_in(console, "RESET_CONDITIONS_OVERRIDDEN") == 1


@pytest.mark.usefixtures("no_orchestrator")
def test_whoever_resets_is_told_before_and_after_that_a_drawdown_trips_again(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    breaker.trip("MANUAL")
    redis_client.hset("circuit_breaker:equity", mapping={"equity": "94", "high_water": "100", "measured_at": 9e15})
    manager = console.visitor(Role.RISK_MANAGER)
    told = "quity 94 is 6.00% below the high-water mark 100 (limit 5.0%): the next measurement below 95 trips again"
    form = manager.get("/circuit-breaker/reset").text
    assert told in form and "wait for equity of 95 or more" in form and 'name="rebase_equity"' in form
    refused = manager.submit("/circuit-breaker/reset", {**TRIP, "rebase_equity": "yes"}).text
    assert 'name="rebase_equity" value="yes" checked' in refused, "what was chosen stays chosen"
    done = manager.submit("/circuit-breaker/reset", {**TRIP, "override_reason": WHY})
    assert breaker.get_state() is State.QUIET_PERIOD and told in done.text
    breaker.trip("MANUAL")
    redis_client.delete("circuit_breaker:reset_rate_limit")
    done = manager.submit("/circuit-breaker/reset", {**TRIP, "override_reason": WHY, "rebase_equity": "yes"})
    assert "the high-water mark begins anew" in done.text and told not in done.text


@pytest.mark.usefixtures("no_orchestrator")
def test_what_a_kill_switch_could_not_close_is_shown_and_an_override_drops_it(
    console: Console, breaker: CircuitBreaker
) -> None:
    now = datetime.now(UTC)
    incident = str(breaker.trip("KILL_SWITCH").incident_id)
    opens = now + timedelta(hours=18)
    pending = PendingExit("ALPHA", "AAPL", Decimal(10), "market closed", incident, "global", now, now, opens)
    with open_pending_exits(console.settings) as store:
        store.write(AccountExits("ALPHA", now, (pending,)))
        manager = console.visitor(Role.RISK_MANAGER)
        shown = manager.get("/circuit-breaker").text
        assert "Pending exits" in shown and "AAPL" in shown and "market closed" in shown
        refused = manager.submit("/circuit-breaker/reset", TRIP)
        assert refused.status_code == 409 and "pending-exits" in refused.text
        assert breaker.get_state() is State.TRIPPED and store.read().exits == (pending,)
        manager.submit("/circuit-breaker/reset", {**TRIP, "override_reason": WHY})
        assert breaker.get_state() is State.QUIET_PERIOD and store.read().exits == ()
    (row,) = console.ledger.query(Filter(actions=("PENDING_EXIT_DROPPED",))).rows
    assert (row.user_id, row.incident_id, row.details["reason"]) == ("the_risk_manager", incident, WHY)
    assert "Pending exits" not in manager.get("/circuit-breaker").text


# --- the runbook's troubleshooting ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_orchestrator")
def test_rate_limit_exceeded_on_reset(console: Console, breaker: CircuitBreaker) -> None:
    breaker.trip("MANUAL")
    manager = console.visitor(Role.RISK_MANAGER)
    manager.submit("/circuit-breaker/reset", TRIP)
    breaker.trip("MANUAL")
    answer = manager.submit("/circuit-breaker/reset", TRIP)
    assert answer.status_code == 409
    assert "minute" in answer.text or "Rate limit" in answer.text
    assert breaker.get_state() is State.TRIPPED


def test_reset_blocked_with_not_tripped(console: Console, breaker: CircuitBreaker) -> None:
    manager = console.visitor(Role.RISK_MANAGER)
    assert "nothing to reset" in manager.get("/circuit-breaker/reset").text
    # The page offers no form then; somebody else may have reset it since this one was loaded.
    breaker.trip("MANUAL")
    loaded = hidden_fields(manager.get("/circuit-breaker/reset").text, "/circuit-breaker/reset")
    breaker.reset()
    answer = manager.post("/circuit-breaker/reset", data={**loaded, **TRIP, "epoch": ""})
    assert answer.status_code == 409
    assert "not TRIPPED" in answer.text


@pytest.mark.parametrize("role, action", [(Role.VIEWER, "trip"), (Role.OPERATOR, "reset"), (Role.VIEWER, "kill")])
def test_rbac_violation(console: Console, breaker: CircuitBreaker, role: Role, action: str) -> None:
    visitor = console.visitor(role)
    page = visitor.get(f"/circuit-breaker/{action}")
    assert page.status_code == 403
    assert "breaker user role" in page.text
    csrf = visitor.get("/circuit-breaker").text.split('name="csrf" value="')[1].split('"')[0]
    posted = visitor.post(f"/circuit-breaker/{action}", data={**TRIP, "csrf": csrf, "confirm": "FLATTEN"})
    assert posted.status_code == 403
    assert breaker.get_state() is State.OPEN
    denied = console.ledger.query(Filter(actions=("PERMISSION_DENIED", "RESET_REFUSED"))).rows
    assert len(denied) == 2
    assert (denied[0].user_id, denied[0].outcome) == (f"the_{role}", "DENIED")


def test_cb_verification_failed_names_the_fix(console: Console, redis_client: redis.Redis) -> None:
    page = console.visitor(Role.VIEWER).get("/circuit-breaker").text
    assert "UNKNOWN" in page
    assert "breaker init" in page


def test_a_hung_redis_is_unknown_and_the_page_comes(own_server: EmbeddedRedis, make_settings: MakeSettings) -> None:
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    with Console(make_settings(own_server.url, redis_timeout=0.5)) as console:
        visitor = console.visitor(Role.OPERATOR)
        assert "OPEN" in visitor.get("/circuit-breaker").text
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            page = visitor.get("/circuit-breaker").text
            assert "UNKNOWN" in page and "treated as tripped" in page
            assert "pending" in visitor.submit("/circuit-breaker/trip", TRIP).text
        finally:
            os.kill(own_server.pid, signal.SIGCONT)


# --- what each role sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_each_role_is_offered_what_it_may_do(console: Console, breaker: CircuitBreaker, role: Role) -> None:
    breaker.trip("MANUAL")
    page = console.visitor(role).get("/circuit-breaker").text
    offered = {
        Permission.TRIP_CIRCUIT: "/circuit-breaker/trip",
        Permission.RESET_CIRCUIT: "/circuit-breaker/reset",
        Permission.KILL_SWITCH: "/circuit-breaker/kill",
        Permission.VIEW_AUDIT: 'href="/audit"',
    }
    for permission, link in offered.items():
        assert (link in page) == (permission in PERMISSIONS[role]), permission


def test_a_scope_of_its_own(console: Console, breaker: CircuitBreaker) -> None:
    operator = console.visitor(Role.OPERATOR)
    after = operator.submit("/circuit-breaker/trip?scope=account%3AALPHA", TRIP)
    assert "account:ALPHA" in after.text
    assert breaker.get_state() is State.OPEN
    assert operator.get("/circuit-breaker?scope=../etc").status_code == 422


@pytest.fixture
def quick_to_find_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.context.SCOPES_EVERY", 0.2)


@pytest.mark.usefixtures("quick_to_find_breakers")
def test_the_worst_state_of_all_breakers_is_on_top_of_every_page(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    def badge() -> str:
        found = re.search(r'<a class="badge live-only.*?</a>', operator.get("/audit").text, re.DOTALL)
        assert found
        return " ".join(re.sub(r"<[^>]*>", " ", found[0]).split())

    operator = console.visitor(Role.OPERATOR)
    eventually(lambda: badge() == "● OPEN", badge, within=30)
    CircuitBreaker(redis_client, "account:ALPHA").trip("MANUAL")
    eventually(lambda: badge() == "■ TRIPPED account:ALPHA", badge, within=30)
    with console.api(Role.VIEWER) as program:
        told = program.get("/circuit-breaker").json()
        assert (told["state"], [each["scope"] for each in told["restricted"]]) == ("OPEN", ["account:ALPHA"])
        assert program.get("/circuit-breaker?scope=account:ALPHA").json()["restricted"] is None
    CircuitBreaker(redis_client, "account:BETA").trip("MANUAL")
    eventually(lambda: badge() == "■ TRIPPED 2 of 3 breakers", badge, within=30)
    breaker.trip("MANUAL")
    eventually(lambda: badge() == "■ TRIPPED", badge, within=30)


# --- audit log --------------------------------------------------------------------------------------------------------


def test_the_audit_log_is_filtered_by_action_and_user(console: Console, breaker: CircuitBreaker) -> None:
    operator = console.visitor(Role.OPERATOR)
    operator.submit("/circuit-breaker/trip", TRIP)
    eventually(lambda: actions_in(console, "CIRCUIT_BREAKER_TRIP") == 1)
    page = operator.get("/audit", params={"action": "CIRCUIT_BREAKER_TRIP"}).text
    assert page.count("<code>CIRCUIT_BREAKER_TRIP</code>") == 1
    assert "<code>SIGNED_IN</code>" not in page
    assert REASON in page
    assert "No row fits" in operator.get("/audit", params={"user": "nobody"}).text
    assert "No row fits" in operator.get("/audit", params={"until": "2001-01-01T00:00"}).text
    assert "is no time" in operator.get("/audit", params={"since": "yesterday"}).text


def test_the_audit_log_has_pages(console: Console, breaker: CircuitBreaker) -> None:
    console.ledger.append([AuditRecord(action="EXAMPLE", source="cli", user_id=f"u{n}") for n in range(120)])
    viewer = console.visitor(Role.OPERATOR)
    seen, path = [], "/audit?action=EXAMPLE"
    while path:
        page = viewer.get(path).text
        seen += [part.split("</td>")[0] for part in page.split("<td>u")[1:]]
        link = page.split('rel="next" href="')
        path = link[1].split('"')[0].replace("&amp;", "&") if len(link) > 1 else ""
    assert sorted(map(int, seen)) == list(range(120))


def test_the_chain_is_verified_on_request(console: Console, breaker: CircuitBreaker) -> None:
    auditor = console.visitor(Role.OPERATOR)
    assert "The chain is whole" in auditor.submit("/audit/verify", {}, page="/audit").text
    with console.ledger.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_update")
        connection.exec_driver_sql("UPDATE audit_log SET user_id = 'mallory' WHERE seq = 1")
    assert "The chain is broken" in auditor.submit("/audit/verify", {}, page="/audit").text


def test_the_export_can_be_verified_elsewhere(console: Console, breaker: CircuitBreaker) -> None:
    answer = console.visitor(Role.OPERATOR).submit("/audit/export", {"format": "jsonl"}, page="/audit")
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert [name.split(".", 1)[1] for name in names] == ["jsonl", "jsonl.checkpoint.json"]
    assert actions_in(console, "AUDIT_EXPORTED") == 1


def test_system_health_names_what_is_there(console: Console, breaker: CircuitBreaker) -> None:
    visitor = console.visitor(Role.VIEWER)
    eventually(lambda: ">ledger<" in visitor.get("/system-health").text)
    page = visitor.get("/system-health").text
    for name in ("redis", "exporter", "prefect", "queues/outbox"):
        assert name in page


def test_system_health_shows_each_engines_gate_and_which_is_lost(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    visitor = console.visitor(Role.VIEWER)
    eventually(lambda: "No gate reports." in visitor.get("/system-health").text)
    url = console.settings.redis_url.get_secret_value()
    with Gate(url, scopes=["account:ALPHA"]) as gate:
        assert gate.wait_until_open(20)
        eventually(lambda: "account:ALPHA" in visitor.get("/system-health").text)
        assert f"{socket.gethostname()} " in visitor.get("/system-health").text
        lose_a_gate(redis_client)
        eventually(lambda: "LOST" in visitor.get("/system-health").text)
        assert "engine-7" in visitor.get("/system-health").text


def report(reason: str) -> GateReport:
    return GateReport("a", "<b>host", 1, "thread", ("global",), reason, 0.05, 1, {})


@pytest.mark.parametrize(
    ("reasons", "colour", "value"),
    [
        ([("OPEN", 1.0), ("OPEN", 2.0)], Colour.GREEN, "2 OPEN"),
        ([("TRIPPED", 1.0)], Colour.GREEN, "1 TRIPPED"),
        ([("OPEN", 1.0), ("OPEN", 60.0)], Colour.YELLOW, "1 OPEN, 1 LOST"),
        ([("STALE", 1.0)], Colour.YELLOW, "1 STALE"),
        ([], Colour.YELLOW, "none reports"),
    ],
)
def test_a_gate_is_green_where_it_does_what_a_breaker_says(
    reasons: list[tuple[str, float]], colour: Colour, value: str
) -> None:
    gates = ReportedGates(tuple(ReportedGate(report(reason), age) for reason, age in reasons), {})
    measured = measure_gates(gates)
    assert (measured.colour, measured.value) == (colour, value)


def test_gates_that_cannot_be_read_are_red() -> None:
    assert measure_gates("Redis gave no answer.").colour is Colour.RED


def test_a_page_is_light(console: Console, breaker: CircuitBreaker) -> None:
    """Under 60 kB in all, with everything that it loads."""
    visitor = console.visitor(Role.ADMIN)
    page = visitor.get("/circuit-breaker")
    loaded = [part.split('"')[0] for part in page.text.replace('href="/static', 'src="/static').split('src="')[1:]]
    assert len(loaded) == 3
    assert len(page.content) + sum(len(visitor.get(path).content) for path in loaded) < 60_000


@pytest.mark.parametrize("name", ["", "production"])
def test_every_page_names_the_environment_in_header_and_title(
    make_settings: MakeSettings, redis_server: EmbeddedRedis, breaker: CircuitBreaker, name: str
) -> None:
    with Console(make_settings(redis_server.url, environment=name)) as console:
        visitor = console.visitor(Role.ADMIN)
        shown = name or "unnamed"
        for path in ("/circuit-breaker", "/recovery", "/audit", "/system-health", "/circuit-breaker/kill"):
            page = visitor.get(path).text
            assert f">{shown}</div>" in page and f" · {shown} · Circuit Breaker</title>" in page, path


def test_commands_on_pages_carry_what_a_shell_lacks(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LACKING, "BREAKER_CONFIG")
    monkeypatch.setenv("BREAKER_CONFIG", "/a folder/breaker.toml")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/breaker")
    redis_client.set("circuit_breaker:state:account:ALPHA", "nonsense")
    visitor = console.visitor(Role.ADMIN)
    eventually(lambda: "<h2>Breakers</h2>" in visitor.get("/circuit-breaker?scope=account:ALPHA").text)
    pages = [visitor.get(path).text for path in ("/circuit-breaker?scope=account:ALPHA", "/recovery", "/kill/nothing")]
    assert "a folder" not in console.visitor().get("/login").text, "who is nobody is told of no path"
    commands = [unescape(code) for page in pages for code in re.findall(r"<code>([^<]*breaker [^<]*)</code>", page)]
    lacking = "BREAKER_CONFIG='/a folder/breaker.toml' "
    assert f"{lacking}breaker init --force --scope account:ALPHA" in commands
    assert all(code.startswith(lacking) for code in commands) and len(commands) >= 2, commands
    assert not any("`breaker " in page for page in pages)


def test_incidents_are_listed_for_who_may_read_the_audit_log(console: Console, breaker: CircuitBreaker) -> None:
    operator = console.visitor(Role.OPERATOR)
    assert "No incident is on record" in operator.get("/incidents").text
    breaker.trip("MANUAL", tripped_by="ada", details={"reason": "<b>quotes</b> look frozen"})
    eventually(lambda: actions_in(console, "CIRCUIT_BREAKER_TRIP") == 1)
    page = operator.get("/incidents").text
    assert "MANUAL · &lt;b&gt;quotes&lt;/b&gt; look frozen" in page and "not ended" in page and ">ada<" in page
    link = page.partition('href="/incidents/')[2].partition('"')[0]
    assert link == breaker.get_status().incident_id
    without = operator.get(f"/incidents/{link}")
    assert without.status_code == 404 and "No report here yet" in without.text
    assert "as soon as somebody has answered the recovery" in without.text and "It has not ended." in without.text
    for target in (f"/audit?incident_id={link}", "/recovery"):
        assert f'href="{target}"' in without.text and operator.get(target).status_code == 200
    unknown = operator.get(f"/incidents/{uuid7()}").text
    assert "is on record" in unknown and "No report here yet" not in unknown
    folder = console.settings.state_dir / "incidents" / link
    folder.mkdir(parents=True)
    (folder / "report.md").write_text("## Timeline\n\n| a | b |\n| --- | --- |\n| [x](http://e.vil) | <img src=x> |\n")
    report = operator.get(f"/incidents/{link}").text
    assert "<h2>Timeline</h2>" in report and "<td>[x](http://e.vil)</td>" in report and "&lt;img src=x&gt;" in report
    assert console.visitor(Role.VIEWER).get("/incidents").status_code == 403
