"""Render HTML from templates. Pieces that pages show and servers push are rendered by the same code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from breaker import State
from breaker.events import History
from breaker.gate.report import ReportedGates
from breaker.keys import GLOBAL, of_scope
from breaker.status_reader import WORST_FIRST
from configuration.breakers import WaitingTrips
from configuration.printed_commands import COMMAND, pastable
from configuration.settings import Settings
from console import value_format
from console.auth.permissions import Permission
from console.labels import COLOUR_SHAPES, STATE_LABELS
from console.live.exposure import AccountExposure, profit_of
from console.live.gates import gate_label
from console.live.poller import Sample
from console.live.state_watcher import WatchedState
from console.live.watch_progress import ResetWatched
from tasks.checks.measurement import Measurement
from tasks.checks.rules import RuleLine
from tasks.kill import cost_text
from tasks.kill.pending_exit_store import Reading
from tasks.kill.report import count, seconds
from tasks.kill.status import KillStatus
from tasks.kill.venue_lock_store import LockReading
from tasks.recovery.checklist import CHECKLIST
from tasks.recovery.state import RecoveryState

HERE = Path(str(files("console")))
STATIC = HERE / "static"


@functools.cache
def _environment() -> Environment:
    """Everything is escaped; an unknown name is an error, not an empty space."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        commands=_commands,
        of_scope=of_scope,
        utc=value_format.utc,
        parsed=value_format.parsed,
        duration=value_format.duration,
        detail=value_format.detail,
        time=_time,
        until=_until,
        seconds=seconds,
        count=count,
        money=value_format.money,
        headline=cost_text.headline,
        remarks=cost_text.remarks,
        sections=cost_text.sections,
        quantity=value_format.quantity,
    )
    environment.globals.update(
        STATE_LABELS=STATE_LABELS,
        CHECKLIST=CHECKLIST,
        COLOUR_SHAPES=COLOUR_SHAPES,
        gate_label=gate_label,
        State=State,
        Permission=Permission,
        profit_of=profit_of,
        version=_fingerprint(STATIC),
    )
    return environment


class Renderer:
    """Renders what a console with these settings shows."""

    def __init__(self, settings: Settings) -> None:
        self._quiet_period = settings.quiet_period

    def page(self, template: str, **values: Any) -> str:
        return _environment().get_template(template).render(quiet_period=self._quiet_period, **values)

    def banner(self, states: Sequence[WatchedState], kills: Sequence[KillStatus]) -> str:
        """The worst state of all breakers and whose it is, and a kill switch that runs, on top of every page."""
        running = next((kill for kill in kills if kill.verdict == "RUNNING"), None)
        worst = worst_state(states)
        held_by = [watched.scope for watched in states if watched.status.state is worst]
        return self.page("_banner.html", worst=worst, whose=_whose(held_by, len(states)), running=running)

    def state(self, state: WatchedState) -> str:
        return self.page("_state.html", watched=state)

    def reset_watch(self, watch: ResetWatched | str | None) -> str:
        """Whether the reset is watched, or why that can't be told."""
        return self.page("_reset_watch.html", watch=watch)

    def scopes(self, states: Sequence[WatchedState]) -> str:
        return self.page("_scopes.html", states=states)

    def history(self, events: History | str) -> str:
        return self.page("_history.html", events=events)

    def measurements(self, sample: Sample[list[Measurement]] | None) -> str:
        """Conditions, or what System Health shows."""
        return self.page("_measurements.html", sample=sample)

    def rules(self, sample: Sample[list[RuleLine] | str] | None) -> str:
        """What the automatic rules last heard, and how much of its limit each has left."""
        return self.page("_rules.html", sample=sample)

    def gates(self, sample: Sample[ReportedGates | str] | None) -> str:
        return self.page("_gates.html", sample=sample)

    def exposure(self, sample: Sample[tuple[AccountExposure, ...]] | None) -> str:
        return self.page("_exposure.html", sample=sample)

    def recovery(self, sample: Sample[RecoveryState | str | None], scope: str) -> str:
        return self.page("_recovery.html", sample=sample, scope=scope)

    def pending(self, waiting: WaitingTrips) -> str:
        """Trips that wait on this host until Redis is back."""
        return self.page("_pending.html", waiting=waiting)

    def pending_exits(self, reading: Reading) -> str:
        """What kill switches have left to be closed later."""
        return self.page("_pending_exits.html", reading=reading)

    def venue_locks(self, reading: LockReading) -> str:
        """The accounts that kill switches have locked at their venue."""
        return self.page("_venue_locks.html", reading=reading)

    def kills(self, kills: Sequence[KillStatus]) -> str:
        """The newest runs of the kill switch, a line each."""
        return self.page("_kills.html", kills=kills[:3])

    def kill_runs(self, runs: Sequence[KillStatus]) -> str:
        """The runs of one incident in full."""
        return "".join(self.page("_kill.html", kill=run) for run in runs)


def worst_state(states: Sequence[WatchedState]) -> State:
    return min((watched.status.state for watched in states), key=WORST_FIRST.index)


def _whose(held_by: Sequence[str], total: int) -> str:
    """Whose state that is; nothing where it is that of all, or of the one breaker that halts everything."""
    if len(held_by) == total or list(held_by) == [GLOBAL]:
        return ""
    return held_by[0] if len(held_by) == 1 else f"{len(held_by)} of {total} breakers"


def _commands(text: str) -> Markup:
    """A text with what can be pasted in it as code."""
    parts = COMMAND.split(text)  # every other one is a command
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(pastable(part)) if at % 2 else escape(part) for at, part in enumerate(parts))


def _time(moment: datetime | None) -> Markup | str:
    """A point in the past; with JavaScript the page adds how long ago that is."""
    if moment is None:
        return "—"
    return Markup('<time datetime="{}" data-ago>{}</time>').format(moment.isoformat(), value_format.utc(moment))


def _until(moment: datetime | None) -> Markup | str:
    """A point in the future; with JavaScript the page counts down to it."""
    if moment is None:
        return "—"
    left = (moment - datetime.now(UTC)).total_seconds()
    return Markup('<time datetime="{}" data-until>{} (in {})</time>').format(
        moment.isoformat(), value_format.utc(moment), value_format.duration(left)
    )


def _fingerprint(folder: Path) -> str:
    """Changes when any static file does, so that browsers may keep them for ever."""
    return _digest(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]
