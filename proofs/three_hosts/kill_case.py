"""Run a kill switch on three hosts, lose something at one of its phases, and judge what came of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from breaker import State
from breaker.events import Transition
from proofs.three_hosts.damage import inflict
from proofs.three_hosts.evidence import Beginning, gather
from proofs.three_hosts.host import Host
from proofs.three_hosts.judgement import Kill, broken_by_kill
from proofs.three_hosts.losses import HOSTS, KILL_PHASES, KillCase
from proofs.three_hosts.topology import OPERATOR, STALENESS, Topology
from sandbox.child_process import Child
from sandbox.exchange.scenario import parse
from tests.helpers import eventually

FLAT_WITHIN: Final = 60.0
BOOK: Final = """\
rate_limit = 100000
enforce_available = false
positions = [
  {symbol = "AAPL", qty = "10"}, {symbol = "MSFT", qty = "-5"}, {symbol = "NVDA", qty = "7.5"},
  {symbol = "TSLA", qty = "4"}, {symbol = "AMZN", qty = "-3"}, {symbol = "META", qty = "6"},
]
orders = [
  {symbol = "AAPL", side = "sell", qty = "4", limit_price = "900"},
  {symbol = "MSFT", side = "sell", qty = "2", limit_price = "900"},
  {symbol = "NVDA", side = "buy", qty = "1", limit_price = "1"},
  {symbol = "TSLA", side = "buy", qty = "3", limit_price = "1"},
  {symbol = "GOOG", side = "buy", qty = "2", limit_price = "1"},
  {symbol = "ORCL", side = "buy", qty = "2", limit_price = "1"},
]
[fills]
delay = {low = 0.2, high = 2.0}
[cancels]
delay = {low = 0.1, high = 1.5}
"""
"""The venue catches no close that is too large, so that each one is seen."""
ORDERS: Final = 6
POSITIONS: Final = 6
HALTED: Final = "META"
"""It can't be closed before the loss, and for `HALT_LASTS` after it: somebody has to be left who does."""
HALT_LASTS: Final = 1.5
_REACHED_WITHIN: Final = 40.0
_STILL_AT_WORK: Final = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    case: KillCase
    where: str
    """The host that was lost, or that had what was lost."""
    primary: str
    """The host of Redis's primary then."""
    tripped: float | None
    """Seconds from the command until Redis had the trip."""
    flat: float | None
    """Seconds from the command until the venue was flat."""
    closed: float | None
    """Seconds from the loss, or from the command if that came later, until the last order that a gate let through."""
    broken: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        verdict = "RED" if self.broken else "ok "
        line = (
            f"{verdict} kill/{self.case.phase}/{self.case.loss} ({self.where}, primary on {self.primary}): trip "
            f"{_s(self.tripped)}, flat {_s(self.flat)}, gates {_s(self.closed)}; {self.seconds:.0f} s"
        )
        return "\n".join([line, *(f"      {sentence}" for sentence in self.broken)])


def run_kill(topology: Topology, case: KillCase, number: int) -> Outcome:
    began = time.monotonic()
    topology.begin_anew(parse(BOOK + _halts(case)))
    beginning = Beginning.of(topology)
    primary = topology.host_of_primary().name
    terminal = topology.hosts["host-c"]
    where = ""
    hurt_at = 0.0
    if case.phase == KILL_PHASES[0]:
        hurt_at = time.time()
        where = inflict(topology, case.loss)
        if case.loss.what in HOSTS and where == terminal.name:
            terminal = topology.hosts["host-b"]
    asked_at = time.time()
    kill = _Command(terminal, number)
    if not where:
        reached = _reached(topology, case.phase)
        hurt_at = time.time()
        where = inflict(topology, case.loss)
        if not reached:
            where = f"{where}, too late"
    if case.phase != KILL_PHASES[-1]:
        time.sleep(HALT_LASTS)
        topology.venue.control("resume", {"symbol": HALTED})
    flat_at: float | None = None
    with contextlib.suppress(AssertionError):  # that it was not is judged
        eventually(lambda: topology.report()["is_flat"], within=FLAT_WITHIN, every=0.02)
        flat_at = time.time()
    topology.heal()
    kill.end()
    facts = gather(topology, beginning)
    seen = Kill(flat_meanwhile=flat_at is not None, said=kill.said(), facts=facts)
    broken = broken_by_kill(seen, STALENESS)
    if "too late" in where:
        broken.append(f"the kill never came to {case.phase}")
    trips = [event.at.timestamp() for event in facts.history if event.transition is Transition.TRIP]
    admitted = [last for _, _, last in facts.stretches if last >= max(hurt_at, asked_at)]
    return Outcome(
        case,
        where,
        primary,
        trips[0] - asked_at if trips else None,
        None if flat_at is None else flat_at - asked_at,
        max(admitted) - max(hurt_at, asked_at) if admitted else 0.0,
        tuple(broken),
        time.monotonic() - began,
    )


class _Command:
    """`breaker kill --yes --json`, as a person types it."""

    def __init__(self, host: Host, number: int) -> None:
        self._log: Path = host.home / f"kill-{number}.log"
        arguments = ("kill", "--yes", "--json", "--operator", OPERATOR, "--reason", "three hosts")
        self._child: Child = host.begin("cli", *arguments, log=self._log.stem)

    def end(self) -> None:
        """Wait for it, unless it was killed; make it end where it would not, as a person who follows a dead one."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: self._child.poll() is not None, within=_STILL_AT_WORK, every=0.1)
        self._child.kill()
        self._child.wait(5)

    def said(self) -> Mapping[str, Any]:
        for line in self._log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict):
                    return document
        return {}


def _reached(topology: Topology, phase: str) -> bool:
    signs: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
        "amid cancels": lambda seen: 0 < seen["open_orders"] < ORDERS,
        "amid closes": lambda seen: 0 < len(seen["positions"]) < POSITIONS,
        "at the verification": lambda seen: bool(seen["is_flat"]),
    }
    sign = signs.get(phase)

    def there() -> bool:
        return topology.breaker.get_state() is State.TRIPPED if sign is None else sign(topology.report())

    try:
        return eventually(there, within=_REACHED_WITHIN, every=0.01)
    except AssertionError:
        return False


def _halts(case: KillCase) -> str:
    return "" if case.phase == KILL_PHASES[-1] else f'[[halts]]\nsymbol = "{HALTED}"\n'


def _s(seconds: float | None) -> str:
    return "—" if seconds is None else f"{seconds:.1f} s"
