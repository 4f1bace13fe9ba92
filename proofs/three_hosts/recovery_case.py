"""Run a recovery on three hosts, lose something at two of its phases, and judge what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from breaker.keys import Keys
from breaker.state import State
from breaker.uuid7 import uuid7
from proofs.three_hosts.damage import inflict
from proofs.three_hosts.evidence import Beginning, gather
from proofs.three_hosts.judgement import Recovery, broken_by_recovery
from proofs.three_hosts.losses import Loss, RecoveryCase
from proofs.three_hosts.topology import APPROVER, AUTHOR, OPERATOR, STALENESS, Topology
from sandbox.exchange.scenario import Scenario
from tasks.recovery.answers import AnswerNotTaken, submit_answer
from tasks.recovery.approval_rules import Approval, RootCause
from tasks.recovery.state import RecoveryState

LASTS: Final = 8.0
"""Seconds that something is lost: longer than it takes to begin a dead one's watch anew, and than a failover."""
ENDS_WITHIN: Final = 300.0
"""A run whose process died with its host is put back on schedule after one to two minutes."""
_ANSWER_EVERY: Final = 3.0
_CAUSE: Final = RootCause(AUTHOR, "data", "the quote feed went stale after its failover", "feed pinned to the primary")
_APPROVAL: Final = Approval(APPROVER, "feed pinned, data checked, book is flat", True, "")
_FORMS: Final = {"root cause awaited": "root-cause", "approval awaited": "approval"}
_HEALTH: Final = ("measuring conditions", "checking system health")


@dataclass(frozen=True, slots=True)
class Cell:
    """One of the two losses, and how the recovery went on after it."""

    phase: str
    loss: Loss
    where: str
    went_on: float | None
    """Seconds from the loss until the recovery was at its next phase; None if it never was."""

    def __str__(self) -> str:
        after = "never" if self.went_on is None else f"after {self.went_on:.1f} s"
        return f"{self.phase}/{self.loss} ({self.where}): went on {after}"


@dataclass(frozen=True, slots=True)
class Outcome:
    cells: tuple[Cell, ...]
    ended: str
    broken: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        verdict = "RED" if self.broken else "ok "
        told = "; ".join(map(str, self.cells))
        line = f"{verdict} recovery/{told}; {self.ended}; {self.seconds:.0f} s"
        return "\n".join([line, *(f"      {sentence}" for sentence in self.broken)])


@dataclass
class _Hurt:
    phase: str
    loss: Loss
    where: str
    at: float = field(default_factory=time.monotonic)
    healed: bool = False
    went_on: float | None = None

    def cell(self) -> Cell:
        return Cell(self.phase, self.loss, self.where, self.went_on)


def run_recovery(topology: Topology, case: RecoveryCase) -> Outcome:
    with ThreadPoolExecutor(1) as people:
        return _Incident(topology, case, people).run()


class _Incident:
    def __init__(self, topology: Topology, case: RecoveryCase, people: ThreadPoolExecutor) -> None:
        self._topology = topology
        self._left = [each for each in (case.early, case.late) if each is not None]
        self._only_early = case.late is None
        self._people = people
        self._answering: Future[None] | None = None
        self._answered_at = float("-inf")
        self._approved_at = float("inf")
        self._hurt: list[_Hurt] = []
        self._incident_id = uuid7()
        self._reset_seen = False

    def run(self) -> Outcome:
        began = time.monotonic()
        self._topology.begin_anew(Scenario())
        beginning = Beginning.of(self._topology)
        self._topology.breaker.trip("MANUAL", tripped_by=OPERATOR, incident_id=self._incident_id)
        ended = ""
        while not ended and time.monotonic() - began < ENDS_WITHIN:
            picture, state = self._look()
            self._note_progress(picture, state)
            self._hurt_or_heal(picture, state)
            self._answer(picture)
            ended = self._end(picture, state)
            time.sleep(0.02)
        self._topology.heal()
        facts = gather(self._topology, beginning)
        missed = [phase for phase, _ in self._left]
        seen = Recovery(
            incident_id=self._incident_id,
            approver=APPROVER,
            approved_at=self._approved_at,
            missed=missed,
            ended=ended or f"{self._look()[0].get('phase', 'nothing')}, {facts.state}",
            facts=facts,
        )
        broken = tuple(broken_by_recovery(seen, STALENESS))
        return Outcome(tuple(each.cell() for each in self._hurt), seen.ended, broken, time.monotonic() - began)

    def _look(self) -> tuple[Mapping[str, Any], State]:
        """The picture of this incident's recovery, and the breaker's state."""
        picture = self._topology.recovery()
        mine = picture if picture.get("incident_id") == self._incident_id else {}
        state = self._topology.breaker.get_state()
        self._reset_seen = self._reset_seen or state is State.QUIET_PERIOD
        return mine, state

    def _hurt_or_heal(self, picture: Mapping[str, Any], state: State) -> None:
        now = time.monotonic()
        current = self._hurt[-1] if self._hurt else None
        if current is not None and not current.healed:
            if now - current.at > LASTS:
                self._topology.heal()
                current.healed = True
            return
        if self._left and self._is_at(self._left[0][0], picture, state):
            phase, loss = self._left.pop(0)
            where = inflict(self._topology, loss, flow_run_id=str(picture.get("flow_run_id", "")))
            self._hurt.append(_Hurt(phase, loss, where))

    def _is_at(self, phase: str, picture: Mapping[str, Any], state: State) -> bool:
        if (form := _FORMS.get(phase)) is not None:
            return picture.get("waiting_for") == form and self._is_suspended(str(picture["flow_run_id"]))
        if phase == "amid the health checks":
            return picture.get("phase") in _HEALTH
        if phase == "just after the reset":
            return state is State.QUIET_PERIOD
        return state is State.QUIET_PERIOD and self._is_watched()

    def _is_suspended(self, flow_run_id: str) -> bool:
        found = self._topology.asked("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
        return any(run["state_type"] == "PAUSED" for run in found)

    def _is_watched(self) -> bool:
        """For a second or more."""
        try:
            began, seen = self._topology.client.hmget(Keys.of().key("reset_watch"), "began", "seen")
        except redis.RedisError:
            return False
        return bool(began and seen and int(seen) - int(began) >= 1_000)

    def _note_progress(self, picture: Mapping[str, Any], state: State) -> None:
        """Whether the recovery is past what it was at when something was lost."""
        if not self._hurt or self._hurt[-1].went_on is not None:
            return
        current = self._hurt[-1]
        waits_for = picture.get("waiting_for")
        past = {
            "root cause awaited": waits_for == "approval" or picture.get("phase") in _HEALTH,
            "amid the health checks": waits_for == "approval",
            "approval awaited": self._reset_seen,
            "just after the reset": self._is_over(picture, state),
            "amid the watch": self._is_over(picture, state),
        }
        if past[current.phase]:
            current.went_on = time.monotonic() - current.at

    def _is_over(self, picture: Mapping[str, Any], state: State) -> bool:
        """Open for good, or tripped again, with the checklist begun anew."""
        anew = picture.get("round", 1) > 1 and picture.get("waiting_for") == "root-cause" and state is State.TRIPPED
        return bool(picture.get("done")) or anew

    def _end(self, picture: Mapping[str, Any], state: State) -> str:
        """How it ended, once every loss is healed and nothing is to come; empty until then."""
        if self._left or not all(each.healed for each in self._hurt):
            return ""
        if picture.get("done"):
            return "OPEN"
        if self._is_over(picture, state):
            return "begun anew"
        return "asks" if self._only_early and picture.get("waiting_for") == "approval" else ""

    def _answer(self, picture: Mapping[str, Any]) -> None:
        """As people would: soon, and again when asked again or when nobody seems to have heard."""
        form = picture.get("waiting_for")
        if not form or self._reset_seen or (self._answering is not None and not self._answering.done()):
            return
        if self._left and _FORMS.get(self._left[0][0]) == form:
            return  # it is to be lost first
        if self._only_early and form == "approval":
            return
        if time.monotonic() - self._answered_at < _ANSWER_EVERY:
            return
        self._answered_at = time.monotonic()
        if form == "approval":
            self._approved_at = min(self._approved_at, time.time())
        run = RecoveryState(self._incident_id, "global", str(picture["flow_run_id"]))
        self._answering = self._people.submit(self._give, run, _CAUSE if form == "root-cause" else _APPROVAL)

    def _give(self, run: RecoveryState, answer: RootCause | Approval) -> None:
        """Straight to the orchestrator. One that isn't taken is given again later."""
        with contextlib.suppress(redis.RedisError):
            self._topology.client.delete(Keys.of().reset_rate_limit)
        updates = {PREFECT_API_URL: self._topology.prefect_url, PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(updates=updates), contextlib.suppress(AnswerNotTaken):
            asyncio.run(submit_answer(run, answer))
