"""Read what the gates of all engines report, and label where each stands."""

from __future__ import annotations

from redis.asyncio import Redis

from breaker import BreakerError, State
from breaker.deadline_client import AsyncDeadlineClient
from breaker.gate.decision import Reason
from breaker.gate.report import GATE_FAULTS, ReportedGate, ReportedGates, read_reports, reports_request
from console.labels import COLOUR_SHAPES, STATE_LABELS


async def read_gates(redis: Redis, timeout: float) -> ReportedGates | str:
    """The gates of all engines, or why they can't be told, within `timeout` seconds."""
    client = AsyncDeadlineClient(redis, timeout)
    try:
        return read_reports(await client.execute(reports_request()))
    except BreakerError as error:
        return str(error)
    finally:
        await client.close()


def gate_label(gate: ReportedGate) -> tuple[str, str, str]:
    """Colour, shape and word for where a gate stands. Pure."""
    if gate.lost:
        return "yellow", "?", "LOST"
    if gate.report.reason == Reason.OPEN:
        return "green", STATE_LABELS[State.OPEN].shape, STATE_LABELS[State.OPEN].word
    if gate.report.reason == Reason.QUIET_PERIOD:
        return "yellow", STATE_LABELS[State.QUIET_PERIOD].shape, STATE_LABELS[State.QUIET_PERIOD].word
    if gate.report.reason in GATE_FAULTS:
        return "yellow", COLOUR_SHAPES["yellow"], gate.report.reason
    return "red", COLOUR_SHAPES["red"], gate.report.reason
