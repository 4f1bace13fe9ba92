"""Turn a scrape into Prometheus's metric families.

`cb_staleness_seconds` has the runbook's binary semantics: 0 when the state of every known breaker was read and
understood in this very scrape, 999999 when not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from breaker import State
from breaker.gate.decision import Reason
from breaker.gate.report import ReportedGates
from services.exporter.redis_reading import ScopeReading
from services.exporter.scrape import ChainReading, LedgerReading, Scrape
from tasks.running_services import RunningService
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.records import NetRecord

VERIFIED = 0.0
FAILED = 999_999.0
_STATES = tuple((word, word.value) for word in State)
_STAGES = ("halted", "no_orders", "flat")
_NOT_KEPT = "not_kept"
"""Of a safety net whose keeper has said nothing for a while."""
_DRILL_STAGES = ("halted", "first_cancel", "no_orders", "flat", "recovery")


class Rendering:
    """Prometheus's text format. Of a thousand breakers most stand as they stood: their text is made once."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Metric, bytes]] = {}

    def render(self, taken: Scrape) -> bytes:
        self._kept = {family.name: self._with_text(family) for family in families(taken)}
        return b"".join(text for _, text in self._kept.values())

    def _with_text(self, family: Metric) -> tuple[Metric, bytes]:
        kept = self._kept.get(family.name)
        return kept if kept is not None and kept[0] == family else (family, generate_latest(_One(family)))


class _One(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


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
    yield from _rule_families(taken.redis.scopes)
    yield _gauge("cb_redis_up", "Whether Redis answered in time.", float(taken.redis.problem is None))
    yield _gauge("cb_redis_latency_seconds", "Time to read every breaker's state.", taken.redis.latency)
    yield _gauge(
        "cb_verification_age_seconds",
        "Since the scheduled health verification last ran; left out when it never did.",
        taken.redis.verification_age,
    )
    if taken.redis.services is not None:
        yield _service_family(taken.redis.services)
    if taken.redis.gates is not None:
        yield from _gate_families(taken.redis.gates)
    if taken.redis.safety_nets is not None and taken.redis.read_at is not None:
        yield from _safety_net_families(taken.redis.safety_nets, taken.redis.read_at)
    if taken.pending_exits is not None:
        yield _labelled(
            GaugeMetricFamily("cb_pending_exits", "What a kill switch left to be closed later.", labels=["account"]),
            taken.pending_exits,
        )
    yield _gauge(
        "cb_ledger_lag_seconds",
        "Since the oldest transition or record that Redis or this host has and the audit log has not; 0 if it has all.",
        taken.ledger_lag,
    )
    yield from _ledger_families(taken.ledger, taken.chain)
    yield _gauge(
        "cb_spool_copied_records",
        "Audit records that wait on any host for the ledger, by their copy in Redis.",
        taken.redis.copied_records,
    )
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
        for word, name in _STATES:
            state.add_metric([reading.scope, name], float(status.state is word))
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


def _rule_families(scopes: Iterable[ScopeReading]) -> Iterator[Metric]:
    distance = GaugeMetricFamily(
        "cb_rule_distance",
        "Share of its limit that a rule has left: 1 far from it, 0 at the limit, negative beyond it.",
        labels=["rule", "scope"],
    )
    refused = CounterMetricFamily(
        "cb_measurements_refused",
        "Measurements that were impossible, or not trusted by their venue, by what they were of.",
        labels=["kind", "scope"],
    )
    for reading in scopes:
        for rule, left in reading.measured.distances.items():
            distance.add_metric([rule, reading.scope], float(left))
        for kind, count in reading.measured.refused.items():
            refused.add_metric([kind, reading.scope], float(count))
    yield from (distance, refused)


def _service_family(services: Iterable[RunningService]) -> Metric:
    family = GaugeMetricFamily(
        "cb_service_configuration_changed",
        "1: the process runs by a configuration that has changed since it began; restart it.",
        labels=["service", "host", "configuration"],
    )
    for service in services:
        family.add_metric([service.service, service.host, service.configuration], float(service.changed))
    return family


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


def _safety_net_families(nets: Mapping[str, NetRecord | None], now: float) -> Iterator[Metric]:
    stands = GaugeMetricFamily(
        "cb_safety_net",
        "1 for where the venue's own timer stands: armed, late, left to fire, fired, off, or kept by nobody.",
        labels=["account", "standing"],
    )
    left = GaugeMetricFamily(
        "cb_safety_net_left_seconds", "Until the venue cancels unless it is renewed, at least.", labels=["account"]
    )
    renewed = GaugeMetricFamily(
        "cb_safety_net_renewed_at_seconds", "Unix time of the last renewal that the venue took.", labels=["account"]
    )
    verified = GaugeMetricFamily(
        "cb_safety_net_verified", "1: the venue's own answer said that the timer runs.", labels=["account"]
    )
    firings = CounterMetricFamily("cb_safety_net_firings", "How often the venue's timer has fired.", labels=["account"])
    for account, net in nets.items():
        standing = net.standing.value if net is not None and net.is_kept(now) else _NOT_KEPT
        for word in (*Standing, _NOT_KEPT):
            stands.add_metric([account, word], float(standing == word))
        if net is None:
            continue
        if net.armed_until is not None:
            left.add_metric([account], max(net.armed_until - now, 0.0))
        if net.renewed_at is not None:
            renewed.add_metric([account], net.renewed_at)
        verified.add_metric([account], float(net.verified))
        firings.add_metric([account], float(net.firings))
    yield from (stands, left, renewed, verified, firings)


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
