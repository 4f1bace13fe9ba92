"""What Prometheus, Alertmanager and Grafana are told fits what the exporter exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breaker.gate.report import GATE_FAULTS, GateReport, ReportedGate, ReportedGates
from breaker.state import unknown_status
from services.exporter.families import families
from services.exporter.ledger_counts import Counts
from services.exporter.redis_reading import Measurements, RedisReading, ScopeReading
from services.exporter.scrape import ChainReading, LedgerReading, Scrape
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.records import NetRecord

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
DASHBOARD = DEPLOYMENTS / "grafana" / "track7_slo.json"
RULES = DEPLOYMENTS / "prometheus" / "rules.yml"


def exported() -> set[str]:
    """The names of all metrics, with the suffix that counters get."""
    kill = {"flat": True, "halted_after": 0.1, "no_orders_after": 0.2, "flat_after": 0.3}
    scope = ScopeReading("global", unknown_status("x"), 0, 0.0, Measurements(), 0.0)
    report = GateReport("a", "host", 1, "thread", ("global",), "OPEN", 0.1, 1, {})
    gates = ReportedGates((ReportedGate(report, 1.0),), {"admitted": 1})
    net = NetRecord(account="ALPHA", standing=Standing.ARMED, timeout=60, as_of=1.0, seconds_left=50, renewed_at=1.0)
    beside: dict[str, Any] = {"services": (), "copied_records": 0, "safety_nets": {"ALPHA": net}, "read_at": 1.0}
    redis_reading = RedisReading((scope,), 0.001, gates=gates, verification_age=1.0, **beside)
    ledger = LedgerReading(Counts(last_kill=kill), None, 0, 0.0)
    taken = Scrape(redis_reading, ledger, ChainReading(True, 1.0, 1), {"verified": 1}, 0.1)
    return {family.name + ("_total" if family.type == "counter" else "") for family in families(taken)}


def expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])
    yield from re.findall(r"^\s+expr: (.*)$", RULES.read_text(), re.MULTILINE)


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_query_names_a_metric_that_is_exported(expression: str) -> None:
    named = set(re.findall(r"\bcb_\w+", expression))
    assert named
    assert named <= exported()


def test_what_people_wait_for_and_what_stands_still_is_on_the_dashboard_and_pages() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    alerted = RULES.read_text()
    for name in ("cb_recovery_waiting_seconds", "cb_gates", "cb_ledger_lag_seconds"):
        assert name in shown
        assert name in alerted


def test_every_standing_of_a_gate_that_is_a_fault_of_its_own_alerts() -> None:
    alternatives = re.search(r'cb_gates{reason=~"([A-Z_|]+)"}', RULES.read_text())
    assert alternatives
    assert set(alternatives[1].split("|")) == set(GATE_FAULTS)


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_has_the_runbooks_key_panels() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    assert dashboard["title"] == "Track7 SLO"
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert "cb_staleness_seconds" in queries
    assert any("cb_state" in query for query in queries)
    assert {"Trips", "Resets"} <= {annotation["name"] for annotation in dashboard["annotations"]["list"]}


def test_the_rules_have_the_runbooks_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert {"CBVerificationFailed", "CBMetricMissing"} <= set(alerts)


needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing: apt install prometheus")


@needs_promtool
@pytest.mark.parametrize("asked", ["check rules rules.yml", "check config prometheus.yml", "test rules rules_test.yml"])
def test_prometheus_own_tool_accepts_it(asked: str) -> None:
    done = subprocess.run(["promtool", *asked.split()], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
