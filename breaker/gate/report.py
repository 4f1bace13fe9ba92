"""Put into text, and read back, what a gate reports of itself, so that people see the gates of all engines. No I/O.

No decision is ever made on a report. One that gets lost, or is refused, changes nothing but what a page shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from breaker.gate.decision import Reason
from breaker.requests import Request, Script, raise_if_error, script_request, standalone_script
from breaker.rule_requests import read_counts

REPORT_EVERY = 2.0
"""Seconds between two reports of one gate."""
LOST_AFTER = 10.0
"""Seconds without a report after which a gate counts as lost: its process, its host or its way to Redis is gone."""
FORGOTTEN_AFTER = 900.0
"""Seconds for which a lost gate is shown before it is forgotten."""
MAX_REPORT_BYTES = 8_192
"""A report is no longer than this."""
CHECK_OUTCOMES = ("admitted", "reduced", "refused")
"""What checks came to: risk was admitted, a reduction was, or the order was refused."""
MAX_REPORT_SCOPES = 20
LOST, OTHER = "LOST", "OTHER"
GATE_FAULTS = (Reason.STATE_OUTDATED, Reason.STALE, Reason.BEING_READ, Reason.NOT_CONNECTED, Reason.NOT_WATCHED)
"""A gate that gives one of these for longer than moments is closed by a fault of its own, whatever the breakers say."""
GATE_REASONS = (
    Reason.OPEN,
    Reason.QUIET_PERIOD,
    Reason.TRIPPED,
    Reason.STATE_MISSING,
    Reason.STATE_UNREADABLE,
    *GATE_FAULTS,
)
"""The reasons of a gate as a whole that is at work; others are a single order's, or a gate's that doesn't report."""
_MAX_GATES = 1_000
_KEYS = ("circuit_breaker:gates", "circuit_breaker:gate_reports", "circuit_breaker:gate_checks")


@dataclass(frozen=True, slots=True)
class GateReport:
    """One gate at one moment. `gate_id` is made when the gate starts, so that its counts never begin anew under it."""

    gate_id: str
    host: str
    pid: int
    backend: str
    scopes: tuple[str, ...]
    """The first few, so that a report stays short."""
    reason: str
    """Why orders pass or don't, as in `GateStatus`."""
    lease_age: float | None
    """Seconds since the last confirmed heartbeat was sent; None while nothing is known."""
    connections: int
    checks: Mapping[str, int]
    """How many checks came to what, since the gate started."""
    compared: bool = False
    """Whether it opens only on a Redis that was compared with the ledger."""

    def to_json(self) -> str:
        """One line, which `from_json` reads back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> GateReport:
        """Raises ValueError for what is no report."""
        if len(text) > MAX_REPORT_BYTES:
            raise ValueError(f"a report of more than {MAX_REPORT_BYTES} bytes")
        try:
            plain = json.loads(text)
            age = plain["lease_age"]
            return cls(
                gate_id=str(plain["gate_id"]),
                host=str(plain["host"]),
                pid=int(plain["pid"]),
                backend=str(plain["backend"]),
                scopes=tuple(str(scope) for scope in plain["scopes"]),
                reason=str(plain["reason"]),
                lease_age=None if age is None else float(age),
                connections=int(plain["connections"]),
                checks={decision: int(plain["checks"].get(decision, 0)) for decision in CHECK_OUTCOMES},
                compared=bool(plain.get("compared", False)),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a gate's report: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, slots=True)
class ReportedGate:
    """A gate as Redis remembers it. `age`: seconds since it reported."""

    report: GateReport
    age: float

    @property
    def lost(self) -> bool:
        """Whether it has not reported for `LOST_AFTER`."""
        return self.age > LOST_AFTER


@dataclass(frozen=True, slots=True)
class ReportedGates:
    """Every gate that has reported lately, and what the checks of all gates came to since Redis was set up."""

    gates: tuple[ReportedGate, ...]
    checks: Mapping[str, int]

    @property
    def lost(self) -> int:
        """How many gates have not reported for `LOST_AFTER`."""
        return sum(gate.lost for gate in self.gates)

    @property
    def reasons(self) -> Mapping[str, int]:
        """How many gates give which reason: each of `GATE_REASONS`, `LOST`, and `OTHER` for one of a later version."""
        counted: Counter[str] = Counter(dict.fromkeys((*GATE_REASONS, LOST), 0))
        for gate in self.gates:
            known = gate.report.reason if gate.report.reason in GATE_REASONS else OTHER
            counted[LOST if gate.lost else known] += 1
        return counted

    @property
    def oldest_lease(self) -> float | None:
        """The greatest age, in seconds, of a lease that a gate which is not lost reported; None if there is none."""
        ages = [g.report.lease_age for g in self.gates if not g.lost and g.report.lease_age is not None]
        return max(ages, default=None)


def report_request(report: GateReport, *, last: bool) -> Request:
    """Tell Redis. `last`: the gate is being closed and not to be missed."""
    arguments = (report.gate_id, report.to_json(), int(FORGOTTEN_AFTER * 1000), "closed" if last else "")
    return script_request(_script(), _KEYS, arguments, purpose="keep a gate's report")


def reports_request() -> Request:
    """Ask Redis for all of them; `read_reports` understands the replies."""
    seen, reports, checks = _KEYS
    newest = ("ZREVRANGE", seen, 0, _MAX_GATES - 1, "WITHSCORES")
    return Request("read the gates' reports", (("TIME",), newest, ("HGETALL", reports), ("HGETALL", checks)))


def read_reports(replies: Sequence[Any]) -> ReportedGates:
    """What is no report, or no count, is left out. Raises RedisRefused for an error among the replies."""
    for reply in replies[:3]:
        raise_if_error(reply)
    (seconds, microseconds), seen, reports, checks = replies
    counted = read_counts(checks)
    now = int(seconds) + int(microseconds) / 1e6
    by_id = dict(zip(reports[::2], reports[1::2], strict=True))
    gates = [
        ReportedGate(report, max(0.0, now - float(score) / 1000))
        for gate_id, score in zip(seen[::2], seen[1::2], strict=True)
        if (report := _report_or_none(by_id.get(gate_id)))
    ]
    ordered = sorted(gates, key=lambda gate: (gate.report.host, gate.report.pid, gate.report.gate_id))
    return ReportedGates(tuple(ordered), {decision: counted.get(decision, 0) for decision in CHECK_OUTCOMES})


def _report_or_none(text: bytes | None) -> GateReport | None:
    try:
        return None if text is None else GateReport.from_json(text)
    except ValueError:
        return None


@cache
def _script() -> Script:
    return standalone_script((Path(__file__).parents[1] / "scripts" / "report_gate.lua").read_text("utf-8"))
