"""What `breaker doctor` looks at: everything that has to be in order before it is needed, each problem with its fix.

Nothing is changed by looking: no record is moved, no checkpoint kept, nothing sent to a venue but questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from breaker import CircuitBreaker
from breaker.errors import RedisRefused
from breaker.keys import GLOBAL, Keys
from breaker.pending_trips import PendingTrips
from breaker.state import State, Status
from brokers.registry import open_broker
from configuration.settings import AccountSettings, Settings, configuration_file
from ledger.audit import Audit
from ledger.configured import open_checkpoints, open_ready_ledger
from ledger.errors import LedgerError
from ledger.verify import verify
from tasks import orchestrator
from tasks.checks.conditions import measure_database, measure_redis
from tasks.checks.endpoint import measure_http
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import NOT_MEASURED, Probe, explain, redis_reader, take
from tasks.checks.prometheus import Prometheus
from tasks.checks.stores import Stores, check_state, judge_chain, open_stores
from tasks.checks.system import measure_health
from tasks.verification.last_result import LastVerification, read_last

DEPLOYMENTS = ("health-verification", "kill-switch", "recovery")
RESET_EVERY = 60.0
CLOCKS_APART = 2.0
"""Seconds by which two clocks may differ before people reading two logs are misled."""
VERIFIED_WITHIN = timedelta(minutes=5)
RESTS_ON = {
    "redis/settings": "redis",
    "reset-rate-limit": "redis",
    "queues/outbox": "redis",
    "chain": "postgresql",
    "epoch": "postgresql",
}
"""What can be looked at only where something else answers."""
_STORES_LIMIT = 20.0
_HTTP_LIMIT = 3.0
_STANDBY_LIMIT = 1.0
_OLDEST_REDIS = (7, 0)


async def diagnose(settings: Settings) -> list[Measurement]:
    """Every check, each within its own deadline, what others rest on first. Never raises."""
    await asyncio.to_thread(_make_ledger, settings)
    (states, chain), *stores = await asyncio.gather(
        _measure_stores(settings),
        measure_redis(settings),
        measure_redis_settings(settings),
        measure_rate_limit(settings),
        measure_pending_trips(settings),
        measure_database(settings),
    )
    # Afterwards, as clients for HTTP read every root certificate first, and Redis's answers would wait for that.
    others = await asyncio.gather(
        *(measure_venue(name, account) for name, account in settings.accounts.items()),
        measure_prefect(),
        measure_deployments(),
        measure_verification(settings),
        measure_exporter(settings),
        measure_prometheus(settings),
        measure_standby(settings),
    )
    venues = others if settings.accounts else [_no_account(), *others]
    health = await measure_health(settings)
    found = [configuration(), *stores, *states, chain, *venues, notifications(settings), *health]
    return _without_echoes(found)


def _make_ledger(settings: Settings) -> None:
    """Where the embedded ledger is missing, make it before several checks try to at once."""
    with contextlib.suppress(LedgerError):  # the check of the database says why it can't be made
        open_ready_ledger(settings).close()


def _without_echoes(found: Sequence[Measurement]) -> list[Measurement]:
    """What can't be measured because of what is red already says so, instead of the same at length."""
    away = {measurement.name for measurement in found if measurement.value == NOT_MEASURED}
    return [
        replace(measurement, problem=f"Not looked at, as {cause} is away: mend that first.")
        if measurement.value == NOT_MEASURED and (cause := RESTS_ON.get(measurement.name)) in away
        else measurement
        for measurement in found
    ]


def configuration() -> Measurement:
    """That it could be read is known by now; this says which one it was."""
    file = configuration_file()
    probe = Probe("configuration", "readable", "breaker.toml, or what BREAKER_CONFIG names, and BREAKER_* variables")
    if file.is_file():
        return probe.found(str(file.absolute()))
    problem = f"There is no {file.absolute()}, so all is as built in: run this where breaker.toml is, or write one."
    return probe.found("none", Colour.YELLOW, problem)


# --- Redis, the breaker and its record --------------------------------------------------------------------------------


async def _measure_stores(settings: Settings) -> tuple[list[Measurement], Measurement]:
    """Each breaker's state, and the ledger's chain; what blocks goes on in a thread."""
    chain = Probe("chain", "unbroken", "the rows since the last checkpoint")
    state = Probe("state", "readable", Keys.of(GLOBAL).state)
    try:
        async with asyncio.timeout(_STORES_LIMIT):
            return await asyncio.to_thread(_look_at_stores, settings, chain)
    except TimeoutError:
        late = f"There was no answer within {_STORES_LIMIT:g} s; see redis and postgresql."
        return [state.failed(late)], chain.failed(late)
    except Exception as error:  # a doctor who falls over helps nobody
        return [state.failed(explain(error))], chain.failed(explain(error))


def _look_at_stores(settings: Settings, chain: Probe) -> tuple[list[Measurement], Measurement]:
    with open_stores(settings) as stores:
        states = [found for scope in stores.scopes for found in _look_at_state(stores, scope)]
        try:
            kept = open_checkpoints(settings).all()
            newest = max(kept, key=lambda point: point.seq, default=None)
            verification = verify(stores.ledger, key=stores.ledger.key, checkpoints=kept, start=newest)
        except Exception as error:
            return states, chain.failed(explain(error))
        return states, judge_chain(chain, Audit(verification, None))


def _look_at_state(stores: Stores, scope: str) -> list[Measurement]:
    name = "trading" if scope == GLOBAL else f"trading/{scope}"
    trading = Probe(name, "not halted", Keys.of(scope).state)
    with closing(CircuitBreaker(stores.redis, scope, timeout=stores.timeout)) as breaker:
        status = breaker.get_status()
    try:
        states = check_state(stores, scope)
    except Exception as error:  # the ledger's epoch is the lesser part; the state itself was read
        states = [Probe("epoch", "not below the ledger's", Keys.of(scope).state).failed(explain(error))]
    if status.state is State.UNKNOWN:
        return states
    return [*states, judge_trading(trading, status, stores.settings.quiet_period)]


def judge_trading(probe: Probe, status: Status, quiet_period: float) -> Measurement:
    """Halted is no fault, but whoever wonders why nothing trades should read it here."""
    if status.state is State.TRIPPED:
        by = f" by {status.tripped_by}" if status.tripped_by else ""
        problem = f"Halted{by}, {status.trip_reason or 'no reason given'}: `breaker recover` walks back to trading."
        return probe.found("halted", Colour.YELLOW, problem)
    if status.state is State.QUIET_PERIOD and status.quiet_until is not None and status.as_of is not None:
        left = (status.quiet_until - status.as_of).total_seconds()
        if left > max(quiet_period, RESET_EVERY):
            problem = (
                f"The quiet period would last {left:.0f} s more, which no reset here asks for: "
                "`breaker trip`, then `breaker reset` begins a proper one."
            )
            return probe.found("stuck in QUIET_PERIOD", Colour.RED, problem)
        return probe.found(f"limited for {left:.0f} s more", Colour.YELLOW, "After a reset; it ends by itself.")
    return probe.found("allowed")


async def measure_redis_settings(settings: Settings) -> Measurement:
    """Whether the server could lose or forget a state that it has taken."""
    probe = Probe("redis/settings", "nothing lost, nothing evicted", "INFO and CONFIG GET of the configured Redis")

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            before = datetime.now(UTC).timestamp()
            now = await redis.now() / 1_000_000
            apart = now - (before + datetime.now(UTC).timestamp()) / 2
            (info,) = await redis.ask("say which version it is", ("INFO", "server"))
            try:
                config = _pairs(*await redis.ask("show its settings", ("CONFIG", "GET", "*")))
            except RedisRefused:  # hosted servers don't let everyone ask
                config = {}
        return judge_redis_settings(probe, info.decode("utf-8", "replace"), config, apart)

    return await take(probe, 2 * settings.redis_timeout + 2, measure())


def judge_redis_settings(probe: Probe, info: str, config: Mapping[str, str], apart: float) -> Measurement:
    """`apart` is how far Redis's clock is ahead of this host's, in seconds."""
    version = re.search(r"redis_version:(\d+)\.(\d+)\S*", info)
    fsync, policy = config.get("appendfsync", "?"), config.get("maxmemory-policy", "?")
    value = f"version {version[0].partition(':')[2] if version else '?'}, appendfsync {fsync}, {policy}"
    if version and (int(version[1]), int(version[2])) < _OLDEST_REDIS:
        return probe.found(value, Colour.RED, "Its version can't run our scripts: install Redis 7 or Valkey 7.")
    if config.get("maxmemory", "0") != "0" and policy not in ("noeviction", "?"):
        problem = "When memory is short it may drop the breaker's state: CONFIG SET maxmemory-policy noeviction."
        return probe.found(value, Colour.RED, problem)
    if config.get("appendonly") == "yes" and fsync == "no":
        problem = "A power cut may lose half a minute of transitions: CONFIG SET appendfsync everysec, or always."
        return probe.found(value, Colour.YELLOW, problem)
    if abs(apart) > CLOCKS_APART:
        problem = f"Its clock is {apart:+.1f} s from this host's: let both keep time by NTP."
        return probe.found(value, Colour.YELLOW, problem)
    return probe.found(value)


async def measure_rate_limit(settings: Settings) -> Measurement:
    key = Keys.of(GLOBAL).reset_rate_limit
    probe = Probe("reset-rate-limit", "one reset a minute", key)

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            (left,) = await redis.ask(f"look at {key}", ("PTTL", key))
        return judge_rate_limit(probe, int(left) / 1000)

    return await take(probe, 2 * settings.redis_timeout + 2, measure())


def judge_rate_limit(probe: Probe, left: float) -> Measurement:
    """`left` in seconds as PTTL has it: below -1 ms there is no key, at -1 ms it never expires."""
    if left < -0.001:
        return probe.found("a reset may be made")
    if not 0 <= left <= RESET_EVERY:
        problem = f"It was set by hand and blocks resets for too long: redis-cli DEL {probe.how}."
        return probe.found("no expiry" if left < 0 else f"{left:.0f} s left", Colour.RED, problem)
    return probe.found(
        f"{left:.0f} s left", Colour.YELLOW, f"A reset was made just now: wait {left:.0f} s for another."
    )


async def measure_pending_trips(settings: Settings) -> Measurement:
    """Trips that Redis could not be told of, and that nobody has told it of since."""
    pending = PendingTrips(settings.pending_trips_dir)
    probe = Probe("pending-trips", "none", str(pending.directory))

    async def measure() -> Measurement:
        waiting = await asyncio.to_thread(pending.load)
        if not waiting:
            return probe.found("none")
        scopes = ", ".join(sorted({trip.scope for trip in waiting}))
        problem = f"Redis doesn't know yet that {scopes} was halted: bring it back, then `breaker status` tells it."
        return probe.found(f"{len(waiting)} waiting", Colour.RED, problem)

    return await take(probe, 5.0, measure())


# --- venues -----------------------------------------------------------------------------------------------------------


async def measure_venue(name: str, account: AccountSettings) -> Measurement:
    """Whether the venue takes the credentials and its clock is ours; reads only."""
    probe = Probe(f"venue/{name}", "answers, takes the credentials", f"account and clock at {account.base_url}")

    async def measure() -> Measurement:
        broker = open_broker(name, account)
        try:
            held, clock = await broker.account(), await broker.clock()
        finally:
            await broker.aclose()
        apart = (clock.now - datetime.now(UTC)).total_seconds()
        value = f"equity {held.equity} {held.currency}, market {'open' if clock.is_open else 'closed'}"
        if abs(apart) > CLOCKS_APART:
            problem = f"Its clock is {apart:+.1f} s from this host's: let this host keep time by NTP."
            return probe.found(value, Colour.YELLOW, problem)
        return probe.found(value)

    found = await take(probe, 2 * account.request_timeout + 1, measure())
    if found.colour is Colour.RED:
        fix = f"See accounts.{name}: base_url, key_id, secret_key."
        return probe.failed(f"{found.problem.rstrip('.')}. {fix}")
    return found


def _no_account() -> Measurement:
    probe = Probe("venues", "configured", "accounts in the configuration")
    return probe.found("none", Colour.YELLOW, "The kill switch can only halt: write an [accounts.NAME] for each.")


# --- the orchestrator -------------------------------------------------------------------------------------------------


async def measure_prefect() -> Measurement:
    if not orchestrator.is_configured():
        probe = Probe("prefect", "configured", "PREFECT_API_URL")
        problem = "No recovery starts by itself and nothing is verified by schedule: set PREFECT_API_URL."
        return probe.found("not configured", Colour.YELLOW, problem)
    remedy = "start `prefect server start`, or correct PREFECT_API_URL; the kill switch runs without it"
    return await measure_http("prefect", f"{orchestrator.address()}/health", remedy)


async def measure_deployments() -> Measurement:
    """Whether somebody serves what a trip and the clock start."""
    probe = Probe("deployments", f"{', '.join(DEPLOYMENTS)} served", "the configured Prefect API")
    if not orchestrator.is_configured():
        return probe.found("no Prefect", Colour.YELLOW, "Without PREFECT_API_URL nothing can be served.")

    async def measure() -> Measurement:
        served = await orchestrator.served_deployments()
        if missing := [name for name in DEPLOYMENTS if name not in served]:
            problem = f"Nobody serves {', '.join(missing)}: `python -m services.serve`."
            return probe.found(f"{len(served)} served", Colour.RED, problem)
        return probe.found("all served")

    return await take(probe, orchestrator.DEADLINE, measure())


async def measure_verification(settings: Settings) -> Measurement:
    """Whether the scheduled verification runs, and what it found last."""
    probe = Probe("verification", "every minute, nothing red", "what health-verification kept of its last run")

    async def measure() -> Measurement:
        return judge_verification(probe, await read_last(settings), datetime.now(UTC))

    return await take(probe, settings.redis_timeout + 2, measure())


def judge_verification(probe: Probe, last: LastVerification | None, now: datetime) -> Measurement:
    start = "see that `python -m services.serve` runs"
    if last is None:
        return probe.found("never ran", Colour.YELLOW, f"The breaker has never been verified by schedule: {start}.")
    value = f"{(now - last.checked_at).total_seconds():.0f} s ago"
    if now - last.checked_at > VERIFIED_WITHIN:
        return probe.found(value, Colour.RED, f"The scheduled verification has stopped: {start}.")
    if last.failing:
        problem = f"It found {', '.join(last.failing)} red: see those here, or its artifact in Prefect."
        return probe.found(value, Colour.RED, problem)
    return probe.found(value)


# --- who watches ------------------------------------------------------------------------------------------------------


async def measure_exporter(settings: Settings) -> Measurement:
    where = settings.console
    url = f"http://{where.metrics_host}:{where.metrics_port}/metrics"
    probe = Probe("exporter", "cb_staleness_seconds 0", f"GET {url}")

    async def measure() -> Measurement:
        try:
            async with httpx.AsyncClient(timeout=_HTTP_LIMIT) as client:
                answer = await client.get(url)
        except httpx.TransportError:
            return probe.found("down", Colour.RED, "The metrics server does not answer: start `breaker metrics`.")
        return judge_exporter(probe, answer.status_code, answer.text)

    return await take(probe, _HTTP_LIMIT + 1, measure())


def judge_exporter(probe: Probe, status: int, text: str) -> Measurement:
    found = re.search(r"^cb_staleness_seconds (\S+)$", text, re.MULTILINE)
    if status != httpx.codes.OK or found is None:
        problem = "What answers there is not the exporter: free the port, or choose another, console.metrics_port."
        return probe.found(f"{status}", Colour.RED, problem)
    value = f"cb_staleness_seconds {float(found[1]):g}"
    if float(found[1]) != 0:
        return probe.found(value, Colour.RED, "The exporter can't verify the state: mend redis and state, named here.")
    return probe.found(value)


async def measure_prometheus(settings: Settings) -> Measurement:
    """Whether what pages people gets the exporter's figures at all."""
    url = settings.recovery.prometheus_url
    probe = Probe("prometheus", "scrapes the exporter", f"cb_staleness_seconds at {url}")
    if url is None:
        problem = "Nobody can tell whether alerts would fire: set recovery.prometheus_url."
        return Probe("prometheus", "configured", "recovery.prometheus_url").found("none", Colour.YELLOW, problem)

    async def measure() -> Measurement:
        async with httpx.AsyncClient() as client:
            value = await Prometheus(url, client, _HTTP_LIMIT).value("cb_staleness_seconds")
        if value != 0:
            return probe.found(f"{value:g}", Colour.RED, "CBVerificationFailed is firing: mend what is red here.")
        return probe.found(f"{value:g}")

    found = await take(probe, _HTTP_LIMIT + 1, measure())
    if found.value == NOT_MEASURED:
        return probe.failed(f"{found.problem.rstrip('.')}. See {url.rstrip('/')}/targets.")
    return found


async def measure_standby(settings: Settings) -> Measurement:
    path = settings.state_dir / "standby.sock"
    probe = Probe("standby", "answers", str(path))

    async def measure() -> Measurement:
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            problem = "A kill begins a third of a second later than it could: run `breaker standby` on this host."
            return probe.found("not running", Colour.YELLOW, problem)
        writer.close()
        return probe.found("answers")

    return await take(probe, _STANDBY_LIMIT, measure())


def notifications(settings: Settings) -> Measurement:
    probe = Probe("notifications", "configured", "notifications in the configuration")
    if settings.notifications.anybody:
        return probe.found("configured")
    return probe.found("none", Colour.YELLOW, "Nobody is told of a trip: set notifications.slack, pagerduty or others.")


def _pairs(reply: Any) -> dict[str, str]:
    """What CONFIG GET says, by either protocol."""
    if isinstance(reply, Mapping):
        return {_word(name): _word(value) for name, value in reply.items()}
    words = [_word(word) for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def _word(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
