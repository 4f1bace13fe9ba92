"""One rule set for every way in: whatever refuses a reset refuses it alike by flow, page, API and command line.

Each way is driven as it is in production, in this process: the flow's own step, the page as a browser sends it, the
API, the command line by this host's configuration and the one that goes through a console.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from unittest import mock

import pytest
import redis
from redis.asyncio import Redis

from breaker import CircuitBreaker, State
from breaker.errors import BreakerError
from breaker.rules import Rules
from breaker.uuid7 import uuid7
from cli.console_client import ConsoleClient
from cli.options import ResetOptions
from cli.reset import reset_here
from configuration.breakers import async_breaker_of
from configuration.login import login_name
from configuration.settings import Settings
from console.auth.permissions import Role
from ledger.configured import open_spool
from ledger.queries import Filter
from ledger.record import AuditRow
from ledger.recorder import Recorder
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery import steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.rebase import REBASED
from tasks.recovery.reset import ADOPTED, OVERRIDDEN, REFUSED, measure_for_reset
from tasks.recovery.state import RecoveryState, state_key
from tests.console.conftest import MakeSettings
from tests.console.harness import Console
from tests.helpers import PATIENT_RECOVERY
from tests.tasks.recovery.conftest import approve

REASON = "cause found and fixed, book checked"
WHY = "the loss is booked and the limit will be raised"
RUN = "6b7a6a4e-0000-4000-8000-000000000001"
ALL = ("RESET_CIRCUIT", "APPROVE_RECOVERY")
PEOPLE = {Role.RISK_MANAGER: ALL, Role.OPERATOR: ()}
"""What a login has in place of a console's role."""

pytestmark = pytest.mark.usefixtures("no_orchestrator")


class Ways:
    """Each way returns None after a reset, else the sentence that it was refused with."""

    def __init__(self, console: Console, client: redis.Redis) -> None:
        self.console = console
        self.client = client
        self.epoch: int | None = None
        """What the person has looked at; None for the present state."""
        self.rebase = False
        """Whether the high-water mark is to begin anew with the reset."""

    def all(self) -> dict[str, Callable[[Role, str], object]]:
        return {
            "page": self.page,
            "api": self.api,
            "command line": self.here,
            "command line through a console": self.through_console,
            "flow": self.flow,
        }

    def name(self, way: str, role: Role) -> str:
        return login_name() if way in ("command line", "flow") else f"the_{role}"

    async def attempt(self, way: str, role: Role, override: str = "") -> str | None:
        try:
            found = self.all()[way](role, override)
            said = await found if hasattr(found, "__await__") else found
        except BreakerError as error:
            said = str(error).removeprefix("the console says: ")
        return None if said is None else str(said)

    def page(self, role: Role, override: str) -> str | None:
        visitor = self.console.visitor(role)
        csrf = visitor.get("/circuit-breaker").text.split('name="csrf" value="')[1].split('"')[0]
        fields = {"reason": REASON, "acknowledge": "yes", "override_reason": override, "csrf": csrf}
        if self.rebase:
            fields["rebase_equity"] = "yes"
        if self.epoch is not None:
            fields["epoch"] = str(self.epoch)
        answer = visitor.post("/circuit-breaker/reset", data=fields)
        if answer.url.path == "/circuit-breaker":
            return None
        found = re.search(r'<p class="notice bad" role="alert">■ (.*?)</p>', answer.text)
        assert found, answer.text
        # A page shows commands as they can be pasted there.
        return re.sub(r"<code>[^<]*?breaker ([^<]*)</code>", r"`breaker \1`", unescape(found[1]))

    def api(self, role: Role, override: str) -> str | None:
        body = {"reason": REASON, "acknowledge": True, "override_reason": override, "expected_epoch": self.epoch}
        body["rebase_equity"] = self.rebase
        with self.console.api(role) as api:
            answer = api.post("/circuit-breaker/reset", json=body, timeout=30)
        return None if answer.is_success else str(answer.json()["detail"])

    def through_console(self, role: Role, override: str) -> None:
        token = self.console.api(role).headers["authorization"].removeprefix("Bearer ")
        ConsoleClient(self.console.url, token).reset("global", REASON, override, self.epoch, rebase_equity=self.rebase)

    def settings_for(self, role: Role) -> Settings:
        settings = self.console.settings
        people = {login_name(): PEOPLE[role]}
        return settings.model_copy(update={"recovery": settings.recovery.model_copy(update={"people": people})})

    async def here(self, role: Role, override: str) -> None:
        options = ResetOptions("global", REASON, override, "somebody", self.epoch, self.rebase)
        await asyncio.to_thread(reset_here, self.settings_for(role), options)

    async def flow(self, role: Role, override: str) -> str | None:
        """Which looks at the state itself: where somebody else has looked at an older one, a trip comes meanwhile."""
        settings, breaker = self.settings_for(role), CircuitBreaker(self.client)
        status, asynchronous = breaker.get_status(), async_breaker_of(self.console.settings)
        async with Redis.from_url(settings.redis_url.get_secret_value()) as patient:
            state = RecoveryState(incident_id=str(status.incident_id), scope="global", flow_run_id=RUN)
            recorder = Recorder(self.console.ledger, open_spool(settings))
            context = RecoveryContext(settings, patient, asynchronous, recorder, state, (str(status.tripped_by),))
            kept = self.client.get(state_key("global"))
            token = current_recovery.set(context)

            async def measure(*arguments: object) -> object:
                if self.epoch is not None:
                    breaker.trip("MANUAL", tripped_by="gus")
                measured = await measure_for_reset(*arguments)  # type: ignore[arg-type]
                if kept:
                    self.client.set(state_key("global"), kept)  # what the flow shows of itself is another key's worth
                return measured

            answer = {"approver": login_name(), "reason": REASON, "acknowledge": True, "override_reason": override}
            answer["rebase_equity"] = self.rebase
            try:
                with mock.patch.object(steps, "measure_for_reset", measure):
                    done = await approve(answer)
            finally:
                current_recovery.reset(token)
                await asynchronous.close()
        return done.get("refused")


WAYS = ("page", "api", "command line", "command line through a console", "flow")
DIRECT = WAYS[:-1]


@pytest.fixture
def settings(make_settings: MakeSettings, redis_server: EmbeddedRedis, redis_client: redis.Redis) -> Settings:
    return make_settings(redis_server.url, recovery=PATIENT_RECOVERY)


@pytest.fixture
def ways(console: Console, redis_client: redis.Redis) -> Iterator[Ways]:
    CircuitBreaker(redis_client).initialize_state()
    yield Ways(console, redis_client)


def denied(console: Console) -> list[AuditRow]:
    """Newest first."""
    return list(console.ledger.query(Filter(outcome="DENIED"), limit=100).rows)


def alike(sentences: Sequence[str]) -> set[str]:
    """The sentences without what differs by rights: ids, epochs, seconds."""
    return {re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", sentence)) for sentence in sentences}


def permission_missing(_: Ways, client: redis.Redis) -> None:
    CircuitBreaker(client).trip("MANUAL", tripped_by="gus")


def same_person(ways: Ways, client: redis.Redis) -> None:
    trip = {"operator": "gus", "login": login_name()}
    CircuitBreaker(client).trip("MANUAL", trip, tripped_by="the_risk_manager")


def condition_red(_: Ways, client: redis.Redis) -> None:
    CircuitBreaker(client).trip("MANUAL", tripped_by="gus")
    Rules(client).record_equity("100")
    Rules(client).record_equity("94")


def recovery_elsewhere(_: Ways, client: redis.Redis) -> None:
    CircuitBreaker(client).trip("MANUAL", tripped_by="gus")
    other = RecoveryState(incident_id=uuid7(), scope="global", flow_run_id=uuid7(), phase="going on")
    client.set(state_key("global"), other.to_json())


def rate_limited(_: Ways, client: redis.Redis) -> None:
    CircuitBreaker(client).trip("MANUAL", tripped_by="gus")
    client.set("circuit_breaker:reset_rate_limit", "1", px=60_000)


def stale_epoch(ways: Ways, client: redis.Redis) -> None:
    ways.epoch = CircuitBreaker(client).trip("MANUAL", tripped_by="gus").epoch
    CircuitBreaker(client).trip("MANUAL", tripped_by="gus")


CASES: dict[Callable[[Ways, redis.Redis], None], str] = {
    permission_missing: "WHO has no RESET_CIRCUIT permission",
    same_person: "WHO tripped the breaker: somebody else must approve the reset",
    condition_red: "red: drawdown is 6",
    recovery_elsewhere: "red: conflicts is 1 found",
    rate_limited: "Rate limit exceeded",
    stale_epoch: "Somebody else changed the breaker meanwhile",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_promise_9_a_reset_is_refused_alike_everywhere_and_on_record_once(
    ways: Ways, console: Console, redis_client: redis.Redis, case: Callable[[Ways, redis.Redis], None]
) -> None:
    role = Role.OPERATOR if case is permission_missing else Role.RISK_MANAGER
    said = []
    for way in WAYS:
        redis_client.delete("circuit_breaker:equity", state_key("global"))
        case(ways, redis_client)
        before = len(denied(console))
        refused = await ways.attempt(way, role)
        assert refused is not None, f"{way} reset it"
        assert CircuitBreaker(redis_client).get_state() is State.TRIPPED, way
        rows = denied(console)
        assert len(rows) == before + 1, f"{way}: {[row.action for row in rows]}"
        assert (rows[0].action, rows[0].user_id) == (REFUSED, ways.name(way, role)), way
        assert rows[0].details["refused"] == refused, way
        said.append(re.sub(rf"\b{ways.name(way, role)}\b", "WHO", refused))
    (sentence,) = alike(said)
    assert re.sub(r"\d+", "N", CASES[case]) in sentence


@pytest.mark.parametrize("way", WAYS)
async def test_promise_9_an_override_has_a_reason_of_its_own_and_is_on_record(
    ways: Ways, console: Console, redis_client: redis.Redis, way: str
) -> None:
    condition_red(ways, redis_client)
    ways.rebase = True
    refused = str(await ways.attempt(way, Role.RISK_MANAGER))
    assert "at least 20" in refused
    assert "`breaker reset --acknowledge --reason WHY --override WHY --rebase-equity`" in refused, "which works"
    assert redis_client.hget("circuit_breaker:equity", "high_water") == b"100", "nothing refused re-bases"
    assert await ways.attempt(way, Role.RISK_MANAGER, WHY) is None
    status = CircuitBreaker(redis_client).get_status()
    assert (status.state, status.reset_by) == (State.QUIET_PERIOD, ways.name(way, Role.RISK_MANAGER))
    (row,) = console.ledger.query(Filter(actions=(OVERRIDDEN,))).rows
    assert row.details["override_reason"] == WHY
    assert [found["name"] for found in row.details["red"]] == ["drawdown"]
    (event,) = CircuitBreaker(redis_client).get_history(1)
    assert (event.details["override_reason"], event.details["red"]) == (WHY, ["drawdown"])
    assert redis_client.hget("circuit_breaker:equity", "high_water") == b"94", "which every way can ask for"
    (rebased,) = console.ledger.query(Filter(actions=(REBASED,))).rows
    assert (rebased.user_id, rebased.details["high_water_before"]) == (ways.name(way, Role.RISK_MANAGER), "100")
    assert event.details.get("claimed") == ("somebody" if way == "command line" else None)


@pytest.mark.parametrize("way", DIRECT)
async def test_promise_9_a_recovery_that_nobody_has_answered_is_not_passed_by(
    ways: Ways, redis_client: redis.Redis, way: str
) -> None:
    incident = str(CircuitBreaker(redis_client).trip("MANUAL", tripped_by="gus").incident_id)
    own = RecoveryState(incident, "global", RUN, phase="waiting for a person: root-cause", waiting_for="root-cause")
    redis_client.set(state_key("global"), own.to_json())
    refused = await ways.attempt(way, Role.RISK_MANAGER)
    assert "the recovery of this incident is not that far (waiting for a person: root-cause)" in str(refused)
    answered = RecoveryState(incident, "global", RUN, waiting_for="approval", author=ways.name(way, Role.RISK_MANAGER))
    redis_client.set(state_key("global"), answered.to_json())
    assert "wrote the root cause" in str(await ways.attempt(way, Role.RISK_MANAGER))
    redis_client.set(state_key("global"), RecoveryState(incident, "global", RUN, waiting_for="approval").to_json())
    assert await ways.attempt(way, Role.RISK_MANAGER) is None


async def test_a_reset_made_past_the_recovery_is_taken_under_the_name_of_who_made_it(
    ways: Ways, console: Console, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.trip("MANUAL", tripped_by="gus")
    reset = breaker.reset("admin", "reset straight from the library")
    assert reset.epoch is not None
    breaker.end_quiet_period(expected_epoch=reset.epoch)  # the services have watched it already
    assert await ways.attempt("flow", Role.RISK_MANAGER) is None
    (row,) = console.ledger.query(Filter(actions=(ADOPTED,))).rows
    assert (row.user_id, row.details["reset_by"], row.details["epoch"]) == (login_name(), "admin", reset.epoch)
    state = RecoveryState.from_json(redis_client.get(state_key("global")))  # type: ignore[arg-type]
    assert reset.reset_at is not None
    assert (state.item("reset").by, state.item("reset").at) == ("admin", reset.reset_at.isoformat())
    assert "made past this recovery" in state.item("reset").evidence
