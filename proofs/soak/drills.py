"""One drill: a book, a kill by one of the ways in, the venue's verdict, and the way back to OPEN."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

import httpx
from redis.exceptions import RedisError

from breaker import CircuitBreaker, State, Status
from breaker.errors import BreakerError
from breaker.uuid7 import uuid7
from proofs.soak.stack import Stack
from sandbox.exchange.scenario import Scenario, parse

MOST_COMMANDS = 6
"""Kills of one book: faults may keep some of them from their end, and whoever is on call asks again."""
KILL_WITHIN = 120.0
RECOVERED_WITHIN = 400.0
OPEN_WITHIN = 120.0
CAUSE = (
    *("--root-cause", "a drill of the soak, planned and expected"),
    *("--corrective-action", "none is needed, as it was a drill"),
)
REASON = ("--reason", "the drill is over and the book is flat", "--acknowledge")
OVERRIDE = "a drill whose recovery did not come to its end"
"""The reset goes past the recovery then, and past whatever the soak has just broken."""

BOOK = "rate_limit = 2000\n[book]\norders = 60\npositions = 20\nbrackets = 2\n"
SCENARIOS = {
    "quiet": "",
    "racing": "[cancels]\nrace_probability = 0.2\n[fills]\ndelay = { low = 0.01, high = 0.2 }\n",
    "partial fills": "[fills]\npartial_probability = 0.5\ndelay = { low = 0.02, high = 0.1 }\n",
    "slow": "[fills]\ndelay = 0.5\n[cancels]\ndelay = 0.4\n",
    "busy (429)": '[[trouble]]\nkind = "429"\nprobability = 0.15\nuntil = 4\n',
    "failing (503)": '[[trouble]]\nkind = "503"\nprobability = 0.2\nuntil = 4\n',
    "lost answers": '[[trouble]]\nkind = "drop"\napplied = true\nprobability = 0.15\nuntil = 4\n',
    "dropped": '[[trouble]]\nkind = "drop"\nprobability = 0.2\nuntil = 4\n',
    "halted for a while": "[[halts]]\ncount = 2\nuntil = 3\n",
    "late fill": "[late_fill]\nafter_flat = 0.4\n",
}


class Way(StrEnum):
    COLD = "command line alone"
    STANDBY = "command line and standby"
    CONSOLE = "console's API"


@dataclass(slots=True)
class Drill:
    """Times are seconds; `problems` are what must never happen, empty for a good drill."""

    number: int
    way: Way
    scenario: str
    at: float
    commands: list[str] = field(default_factory=list)
    """How each kill ended."""
    halted_after: float | None = None
    swept_after: float | None = None
    flat_after: float | None = None
    recovery_after: float | None = None
    incident_id: str = ""
    problems: list[str] = field(default_factory=list)


class Driller:
    """Runs drills one after another. `recover_every`: each so many is recovered from by the checklist."""

    def __init__(self, stack: Stack, seed: int, recover_every: int) -> None:
        self._stack = stack
        self._random = Random(seed)
        self._recover_every = recover_every
        self._begun = time.monotonic()
        self.done: list[Drill] = []

    def drill(self) -> Drill:
        """One drill. Whatever goes wrong is in its `problems`."""
        number = len(self.done) + 1
        name = self._random.choice(list(SCENARIOS))
        drill = Drill(number, list(Way)[number % len(Way)], name, time.monotonic() - self._begun)
        self.done.append(drill)
        try:
            self._run(drill)
        except Exception as error:  # one drill that breaks off, for whatever reason, is a finding and not the end
            drill.problems.append(f"broken off by {type(error).__name__}: {error}")
        return drill

    def _run(self, drill: Drill) -> None:
        book: Scenario = parse(BOOK + SCENARIOS[drill.scenario]).model_copy(
            update={"seed": self._random.randrange(10**6)}
        )
        self._stack.venue.restart(book)
        self._kill_until_flat(drill)
        drill.incident_id = str(self._tripped(drill).incident_id or "")
        if drill.number % self._recover_every == 0:
            self._recover(drill)
        else:
            self._reset(drill)

    def _kill_until_flat(self, drill: Drill) -> None:
        ways: dict[Way, Callable[[Drill], str]] = {
            Way.COLD: lambda drill: self._by_command(drill, "--reason=a drill of the soak"),
            Way.STANDBY: lambda drill: self._by_command(drill, "--reason", "a drill of the soak"),
            Way.CONSOLE: self._by_console,
        }
        for attempt in range(MOST_COMMANDS):
            # The console's may be gone or refuse while its database is away; the command line needs neither.
            said = ways[drill.way if attempt < 2 else Way.COLD](drill)
            drill.commands.append(said)
            report = self._stack.venue.report()
            if report["violations"]:
                drill.problems.append(f"violations: {report['violations']}")
            if said == "flat" and not report["is_flat"]:
                drill.problems.append("said to be flat when the venue says that it is not")
            if said == "flat":
                return
        drill.problems.append(f"not flat after {MOST_COMMANDS} commands: {drill.commands}")

    def _by_command(self, drill: Drill, *reason: str) -> str:
        """A reason given as one word is not understood by the short way to the standby, which leaves it to the command
        itself.
        """
        outcome = self._stack.cli("kill", "--yes", "--json", "--operator", "ada", *reason)
        if outcome.returncode not in (0, 3, 4):
            drill.problems.append(f"breaker kill: exit status {outcome.returncode}: {outcome.stderr[-500:]}")
            return f"exit status {outcome.returncode}"
        if "Traceback" in outcome.stderr:
            drill.problems.append(f"a traceback on the terminal: {outcome.stderr[-1500:]}")
        body = json.loads(outcome.stdout)
        if outcome.returncode == 0 and drill.flat_after is None and not drill.commands:
            drill.halted_after = body["halted_after"]
            drill.swept_after = body["first_sweep_after"]
            drill.flat_after = body["flat_after"]
        return {0: "flat", 3: f"not flat ({_why_not(body)})", 4: "not halted"}[outcome.returncode]

    def _by_console(self, drill: Drill) -> str:
        begun = time.monotonic()
        headers = {"Authorization": f"Bearer {self._stack.token}", "Idempotency-Key": uuid7()}
        body = {"reason": "a drill of the soak by way of the console", "confirm": "FLATTEN", "acknowledge": True}
        try:
            with httpx.Client(base_url=f"{self._stack.console_url}/api/v1", headers=headers, timeout=30) as api:
                answer = api.post("/kill-switch", json=body)
                if not answer.is_success:
                    return f"the console says {answer.status_code}"
                halted_after = time.monotonic() - begun
                kill = answer.json()
                while kill["verdict"] == "RUNNING":
                    if time.monotonic() - begun > KILL_WITHIN:
                        drill.problems.append(f"the console's kill still runs after {KILL_WITHIN:g} s: {kill}")
                        return "runs on"
                    time.sleep(0.1)
                    kill = api.get(f"/kill-switch/{kill['incident_id']}").raise_for_status().json()
        except httpx.HTTPError as error:
            return f"the console does not answer ({type(error).__name__})"
        if kill["verdict"] != "FLAT":
            return "not flat"
        if not kill["halted"] and not self._is_tripped():
            return "not halted"
        if not drill.commands:
            drill.halted_after, drill.flat_after = halted_after, time.monotonic() - begun
        return "flat"

    def _tripped(self, drill: Drill) -> Status:
        """A kill that ended with 0 has halted, or its trip waits for Redis on this host and is made when it is back."""
        deadline = time.monotonic() + 30
        while not (status := self._status()).is_tripped or status.state is State.UNKNOWN:
            if time.monotonic() > deadline:
                drill.problems.append(f"after the kill the breaker is {status.state.value}")
                break
            time.sleep(0.1)
        return status

    def _is_tripped(self) -> bool:
        return self._status().state is State.TRIPPED

    def _status(self) -> Status:
        with self._stack.direct_redis() as client:
            return CircuitBreaker(client).get_status()

    def _reset(self, drill: Drill) -> None:
        deadline = time.monotonic() + OPEN_WITHIN
        said = ""
        while (status := self._status()).state is not State.OPEN:
            if time.monotonic() > deadline:
                drill.problems.append(f"{status.state.value} after {OPEN_WITHIN:g} s of resets: {said}")
                return
            if status.state is State.TRIPPED:
                self._forget_the_rate_limit()
                said = self._stack.cli("reset", *REASON, "--override", OVERRIDE).stderr
            time.sleep(0.2)

    def _forget_the_rate_limit(self) -> None:
        """One reset a minute would make the soak a quarter of itself."""
        try:
            with self._stack.direct_redis() as client:
                client.delete("circuit_breaker:reset_rate_limit")
        except RedisError:
            pass  # it is down, so the reset is refused for that, and made again

    def _recover(self, drill: Drill) -> None:
        """Answer what the recovery asks, each round of it, until it is done."""
        begun, started_by_hand = time.monotonic(), False
        said = ""
        while True:
            state = self._recovery()
            mine = state.get("incident_id") == drill.incident_id
            if mine and state.get("done"):
                drill.recovery_after = time.monotonic() - begun
                break
            if time.monotonic() - begun > RECOVERED_WITHIN:
                drill.problems.append(
                    f"not recovered within {RECOVERED_WITHIN:g} s: {drill.incident_id}; last answer: {said}; "
                    f"the recovery is { {k: v for k, v in state.items() if k not in ('items', 'artifacts')} }"
                )
                self._reset(drill)
                return
            if not mine and not started_by_hand and time.monotonic() - begun > 60:
                said, started_by_hand = self._stack.cli("recover", "start").stderr, True
            if mine and state.get("waiting_for") == "root-cause":
                said = self._stack.cli("recover", "answer", *CAUSE).stderr
            elif mine and state.get("waiting_for") == "approval":
                self._forget_the_rate_limit()
                said = self._stack.cli("recover", "answer", *REASON).stderr
            time.sleep(0.3)
        if (status := self._status()).state is not State.OPEN:
            drill.problems.append(f"recovered, but the breaker is {status.state.value}")

    def _recovery(self) -> dict[str, Any]:
        try:
            with self._stack.direct_redis() as client:
                raw = client.get("circuit_breaker:recovery")
        except (RedisError, BreakerError):
            return {}
        return json.loads(raw) if isinstance(raw, bytes) else {}


def _why_not(report: Mapping[str, Any]) -> str:
    """What the kill switch said of the accounts that it left."""
    accounts = [account for account in report["accounts"] if not account["flat"]]
    reasons = {item["reason"] for account in accounts for item in account["stuck"]}
    notes = {account["note"] for account in accounts if account["note"]}
    return "; ".join(sorted(reasons | notes)) or "it said nothing"
