"""The exporter: `/metrics` for Prometheus, read afresh at each scrape.

`cb_staleness_seconds` has the runbook's binary semantics: 0 when the state of every known breaker was read and
understood in this very scrape, 999999 when not. A Redis or a database that hangs costs a scrape its deadline, never
more: what does not answer is reported as failed.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from breaker import BreakerError, State
from breaker.gate.decision import Reason
from breaker.gate.report import ReportedGates
from breaker.keys import GLOBAL
from breaker.state import unknown_status
from configuration.redis_clients import redis_client
from configuration.settings import Settings, load_settings
from ledger.audit import verify_ledger
from ledger.configured import open_checkpoints, open_ready_ledger, open_spool
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import known_scopes
from services.exporter.ledger_counts import Counts, read_on
from services.exporter.redis_reading import RedisReading, ScopeReading, read_redis

VERIFIED = 0.0
FAILED = 999_999.0
VERIFY_CHAIN_EVERY = 60.0
_STAGES = ("halted", "no_orders", "flat")
_DRILL_STAGES = ("halted", "first_cancel", "no_orders", "flat", "recovery")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """`counts` as far as the ledger could ever be read; `problem` says why not now."""

    counts: Counts | None
    problem: str | None = None
    spooled: int | None = None
    """Records that wait on this host's disk for the ledger."""
    spool_oldest: float | None = None
    """Seconds since the oldest of them was made, by this host's clock; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class ChainReading:
    whole: bool | None = None
    """None until the chain could be walked for the first time."""
    verified_at: float | None = None
    """Unix time of the last walk that came to the end of a whole chain."""
    seq: int | None = None
    """The row up to which the last walk found it whole."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Everything that one scrape knows."""

    redis: RedisReading
    ledger: LedgerReading
    chain: ChainReading
    checks: Mapping[str, int]
    seconds: float

    @property
    def ledger_lag(self) -> float | None:
        """Seconds since the oldest transition or record that Redis or this host has and the ledger has not; 0 if it
        has all. None unless both are known."""
        waiting = self.redis.outbox_oldest, self.ledger.spool_oldest
        return None if None in waiting else max(age for age in waiting if age is not None)


class Source(Generic[T]):
    """Something slow, read on a thread of its own, one reading at a time, and given up on after a deadline.

    A reading that is given up on goes on; until it has ended, further ones fail at once instead of piling up.
    """

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"read {name}")
        self._running: Future[T] | None = None

    def start(self) -> Future[T] | None:
        if self._running is not None and not self._running.done():
            return None
        self._running = self._pool.submit(self._read)
        return self._running

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Exporter:
    """Reads, and renders what was read. `deadline`: seconds after which a scrape has an answer, whatever hangs."""

    def __init__(self, settings: Settings, *, deadline: float | None = None) -> None:
        self.deadline = deadline or min(settings.redis_timeout, 2.0) + 0.5
        self._settings = settings
        self._redis = redis_client(settings)
        self._spool = open_spool(settings)
        self._checkpoints = open_checkpoints(settings)
        self._ledger: Ledger | None = None
        self._counts: Counts | None = None
        self._scopes: tuple[str, ...] = (GLOBAL,)
        self._chain = ChainReading()
        self._checks: Counter[str] = Counter(verified=0, failed=0)
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._from_redis = Source("redis", self._read_redis)
        self._from_ledger = Source("ledger", self._read_ledger)
        self._upkeep = threading.Thread(target=self._keep_up, name="exporter upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look for further breakers and to walk the chain, once a minute, beside the scrapes."""
        self._upkeep.start()

    def close(self) -> None:
        self._stopping.set()
        self._from_redis.close()
        self._from_ledger.close()
        self._redis.close()

    def scrape(self) -> bytes:
        """One fresh reading in Prometheus's text format."""
        with self._one_at_a_time:
            begun = time.monotonic()
            redis_reading, ledger_reading = self._read(begun + self.deadline)
            self._checks["verified" if redis_reading.verified else "failed"] += 1
            taken = Scrape(redis_reading, ledger_reading, self._chain, Counter(self._checks), time.monotonic() - begun)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(taken))
        return generate_latest(registry)

    def _read(self, until: float) -> tuple[RedisReading, LedgerReading]:
        from_redis, from_ledger = self._from_redis.start(), self._from_ledger.start()
        hung = f"no answer within {self.deadline:g} s"
        closed = tuple(ScopeReading(scope, unknown_status(hung)) for scope in self._scopes)
        redis_reading = _result(from_redis, until) or RedisReading(closed, problem=hung)
        ledger_reading = _result(from_ledger, until) or LedgerReading(self._counts, hung)
        return redis_reading, ledger_reading

    def _read_redis(self) -> RedisReading:
        return read_redis(self._redis, self._scopes, timeout=min(self._settings.redis_timeout, self.deadline))

    def _read_ledger(self) -> LedgerReading:
        spooled: tuple[int | None, float | None] = None, None
        try:
            spooled = self._read_spool()
            self._ledger = self._ledger or open_ready_ledger(self._settings)
            self._counts = read_on(self._ledger, self._counts or Counts())
        except (LedgerError, OSError) as error:
            return LedgerReading(self._counts, str(error), *spooled)
        return LedgerReading(self._counts, None, *spooled)

    def _read_spool(self) -> tuple[int, float]:
        made = [record.timestamp.timestamp() for record in self._spool.records()]
        return len(made), max(0.0, time.time() - min(made)) if made else 0.0

    def _keep_up(self) -> None:
        while True:
            try:
                ledger = self._ledger or open_ready_ledger(self._settings)
                self._scopes = known_scopes(self._redis, ledger, timeout=self._settings.redis_timeout)
                found = verify_ledger(ledger, self._checkpoints, only_new=True)
                whole = found.verification.whole
                verified_at = time.time() if whole else self._chain.verified_at
                self._chain = ChainReading(whole, verified_at, found.verification.seq)
            except (LedgerError, BreakerError) as error:
                # What can't be reached is in the scrape; what was found before still holds for the rows of then.
                sys.stderr.write(f"exporter: {error}\n")
            if self._stopping.wait(VERIFY_CHAIN_EVERY):
                return


def _result(reading: Future[T] | None, until: float) -> T | None:
    if reading is None:
        return None
    try:
        return reading.result(max(0.0, until - time.monotonic()))
    except TimeoutError:
        return None


class _Families(Collector):
    def __init__(self, taken: Scrape) -> None:
        self._taken = taken

    def collect(self) -> Iterable[Metric]:
        return families(self._taken)


def families(taken: Scrape) -> Iterator[Metric]:
    """Every metric that is exported. A value that is not known is left out, never guessed."""
    verified = taken.redis.verified
    yield _gauge(
        "cb_staleness_seconds",
        "0: the state of every known breaker was verified in this scrape. 999999: it was not.",
        VERIFIED if verified else FAILED,
    )
    yield _labelled(
        CounterMetricFamily(
            "cb_status_checks", "Verifications of the state since this exporter started.", labels=["result"]
        ),
        taken.checks,
    )
    yield from _state_families(taken.redis.scopes)
    yield _gauge("cb_redis_up", "Whether Redis answered in time.", float(taken.redis.problem is None))
    yield _gauge("cb_redis_latency_seconds", "Time to read the global breaker's state.", taken.redis.latency)
    yield _gauge(
        "cb_verification_age_seconds",
        "Since the scheduled health verification last ran; left out when it never did.",
        taken.redis.verification_age,
    )
    if taken.redis.gates is not None:
        yield from _gate_families(taken.redis.gates)
    yield _gauge(
        "cb_ledger_lag_seconds",
        "Since the oldest transition or record that Redis or this host has and the audit log has not; 0 if it has all.",
        taken.ledger_lag,
    )
    yield from _ledger_families(taken.ledger, taken.chain)
    yield _labelled(
        GaugeMetricFamily("cb_build_info", "Which version this is; always 1.", labels=["version"]), {_version(): 1}
    )
    yield _gauge("cb_scrape_duration_seconds", "How long the reading took.", taken.seconds)


def _state_families(scopes: Iterable[ScopeReading]) -> Iterator[Metric]:
    state = GaugeMetricFamily("cb_state", "1 for the state that the breaker is in.", labels=["scope", "state"])
    epoch = GaugeMetricFamily("cb_epoch", "Transitions of the breaker.", labels=["scope"])
    since = GaugeMetricFamily("cb_tripped_at_seconds", "Unix time of the trip, while tripped.", labels=["scope"])
    quiet = GaugeMetricFamily(
        "cb_quiet_until_seconds", "Unix time at which a running quiet period ends.", labels=["scope"]
    )
    entries = GaugeMetricFamily("cb_outbox_entries", "Transitions that the ledger hasn't got yet.", labels=["scope"])
    lag = GaugeMetricFamily("cb_outbox_oldest_seconds", "Age of the oldest of them; 0 if none.", labels=["scope"])
    errors = GaugeMetricFamily("cb_api_errors", "API errors in the last 5 minutes.", labels=["scope"])
    drawdown = GaugeMetricFamily("cb_drawdown_ratio", "Fraction below the high-water mark.", labels=["scope"])
    waiting = GaugeMetricFamily(
        "cb_recovery_waiting_seconds",
        "How long the recovery has waited for a person; 0 if none does.",
        labels=["scope"],
    )
    for reading in scopes:
        status, label = reading.status, [reading.scope]
        for word in State:
            state.add_metric([reading.scope, word.value], float(status.state is word))
        tripped_at = status.tripped_at if status.state is State.TRIPPED else None
        quiet_until = status.quiet_until if status.state is State.QUIET_PERIOD else None
        for family, value in (
            (epoch, status.epoch),
            (since, tripped_at.timestamp() if tripped_at else None),
            (quiet, quiet_until.timestamp() if quiet_until else None),
            (entries, reading.outbox_entries),
            (lag, reading.outbox_oldest),
            (errors, reading.measured.api_errors),
            (drawdown, reading.measured.drawdown),
            (waiting, reading.recovery_waiting),
        ):
            if value is not None:
                family.add_metric(label, float(value))
    yield from (state, epoch, since, quiet, entries, lag, errors, drawdown, waiting)


def _gate_families(reported: ReportedGates) -> Iterator[Metric]:
    yield _labelled(
        GaugeMetricFamily(
            "cb_gates", "Engines' gates by where they stand; LOST: no report for 10 s.", labels=["reason"]
        ),
        reported.reasons,
    )
    yield _gauge("cb_gates_open", "Gates that every order passes.", reported.reasons[Reason.OPEN])
    yield _gauge(
        "cb_gate_lease_age_seconds",
        "Greatest time since a gate's last confirmed heartbeat was sent, as last reported.",
        reported.oldest_lease,
    )
    yield _labelled(
        CounterMetricFamily("cb_gate_checks", "What checks of all gates came to.", labels=["decision"]), reported.checks
    )


def _ledger_families(reading: LedgerReading, chain: ChainReading) -> Iterator[Metric]:
    yield _gauge("cb_ledger_up", "Whether the audit log could be read in this scrape.", float(reading.problem is None))
    yield _gauge("cb_spool_records", "Audit records that wait on this host for the ledger.", reading.spooled)
    yield _gauge("cb_spool_oldest_seconds", "Age of the oldest of them; 0 if none.", reading.spool_oldest)
    yield _gauge(
        "cb_chain_verified",
        "1: the audit log's hash chain was whole at the last walk. 0: it is broken.",
        None if chain.whole is None else float(chain.whole),
    )
    yield _gauge("cb_chain_verified_at_seconds", "Unix time of the last walk that found it whole.", chain.verified_at)
    yield _gauge("cb_chain_verified_seq", "Row up to which the last walk found it whole.", chain.seq)
    counts = reading.counts
    if counts is None:
        return
    yield _gauge("cb_ledger_last_seq", "Number of the audit log's last row.", counts.seq)
    yield _labelled(CounterMetricFamily("cb_trip", "Trips in the audit log.", labels=["reason"]), counts.trips)
    yield CounterMetricFamily("cb_reset", "Resets in the audit log.", value=counts.resets)
    yield CounterMetricFamily("cb_override", "States written past the breaker, as found.", value=counts.overrides)
    yield CounterMetricFamily("cb_denied", "Attempts without the permission for them.", value=counts.denied)
    yield CounterMetricFamily(
        "cb_notification_failures", "Notifications that reached nobody.", value=counts.notification_failures
    )
    yield _labelled(
        CounterMetricFamily("cb_kill_switch_runs", "Finished runs of the kill switch.", labels=["result"]), counts.kills
    )
    if counts.last_drill is not None:
        yield from _drill_families(counts.last_drill)
    if counts.last_kill is None:
        return
    yield _gauge(
        "cb_kill_switch_flat",
        "Whether the last run ended with a flat book.",
        float(counts.last_kill.get("flat") is True),
    )
    yield _durations(
        "cb_kill_switch_seconds",
        "From the start of the last run until the stage was reached.",
        _STAGES,
        counts.last_kill,
    )


def _drill_families(drill: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("cb_drill_passed", "Whether the last drill passed.", float(drill.get("passed") is True))
    yield _gauge("cb_drill_at_seconds", "Unix time of the last drill.", _unix_time(drill.get("started_at")))
    yield _durations("cb_drill_seconds", "How long each stage of the last drill took.", _DRILL_STAGES, drill)


def _durations(name: str, text: str, stages: Iterable[str], found: Mapping[str, Any]) -> Metric:
    durations = GaugeMetricFamily(name, text, labels=["stage"])
    for stage in stages:
        value = found.get(f"{stage}_after")
        if isinstance(value, int | float) and math.isfinite(value):
            durations.add_metric([stage], float(value))
    return durations


def _unix_time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, int]) -> Metric:
    for label, value in values.items():
        family.add_metric([str(label)], float(value))
    return family


def _version() -> str:
    try:
        return version("trading-breaker")
    except PackageNotFoundError:
        return "unknown"


class MetricsServer:
    """The exporter behind HTTP, on a thread of its own. Port 0 takes a free one."""

    def __init__(self, exporter: Exporter, host: str, port: int) -> None:
        self.exporter = exporter
        self._server = ThreadingHTTPServer((host, port), _handler(exporter))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def serve(self) -> None:
        """Answer scrapes until `stop` is called from another thread."""
        self.exporter.start()
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.exporter.close()


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10.0
        # Head and body in one packet, or the second would wait for the first to be acknowledged.
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path.split("?", 1)[0] != "/metrics":
                self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"The metrics are at /metrics.\n")
                return
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, exporter.scrape())

        def log_message(self, format: str, *args: object) -> None:
            """A line for every scrape would say nothing."""

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> int:
    """Serve the configured exporter until interrupted. Returns the exit status."""
    try:
        settings = load_settings()
        where = settings.console
        server = MetricsServer(Exporter(settings), where.metrics_host, where.metrics_port)
    except (BreakerError, LedgerError) as error:
        sys.stderr.write(f"metrics: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(
            f"metrics: port {where.metrics_port} of {where.metrics_host} can't be had ({error.strerror}); "
            "stop what listens there, or set console.metrics_port\n"
        )
        return 2
    sys.stderr.write(f"metrics: http://{where.metrics_host}:{server.port}/metrics\n")
    try:
        server.serve()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
