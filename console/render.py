"""HTML from templates. Pieces that pages show and servers push are rendered by the same code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from breaker import State
from breaker.events import TransitionEvent
from breaker.gate.report import ReportedGates
from breaker.pending_trips import PendingTrip
from configuration.settings import Settings
from console import formatting
from console.auth.permissions import Permission
from console.live.exposure import AccountExposure, profit_of
from console.live.poller import Seen
from console.live.state_watcher import WatchedState
from tasks.checks.measurement import Measurement
from tasks.kill.report import count
from tasks.kill.status import KillStatus
from tasks.recovery.checklist import CHECKLIST
from tasks.recovery.state import RecoveryState

HERE = Path(str(files("console")))
STATIC = HERE / "static"


class Renderer:
    """Everything is escaped; an unknown name is an error, not an empty space."""

    def __init__(self, settings: Settings) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            utc=formatting.utc,
            moment=formatting.moment,
            duration=formatting.ago,
            time=_time,
            until=_until,
            seconds=formatting.seconds,
            count=count,
            money=formatting.money,
            shares=formatting.shares,
        )
        self._environment.globals.update(
            LOOKS=formatting.LOOKS,
            CHECKLIST=CHECKLIST,
            SHAPES=formatting.COLOUR_SHAPES,
            gate_look=formatting.gate_look,
            State=State,
            Permission=Permission,
            profit_of=profit_of,
            quiet_period=settings.quiet_period,
            version=_fingerprint(STATIC),
        )

    def page(self, template: str, **values: Any) -> str:
        return self._environment.get_template(template).render(values)

    def strip(self, reading: WatchedState, kills: Sequence[KillStatus]) -> str:
        """The state, and a kill switch that runs, on top of every page."""
        running = next((seen for seen in kills if seen.verdict == "RUNNING"), None)
        return self.page("_strip.html", reading=reading, running=running)

    def state(self, reading: WatchedState) -> str:
        return self.page("_state.html", reading=reading)

    def scopes(self, readings: Sequence[WatchedState]) -> str:
        return self.page("_scopes.html", readings=readings)

    def history(self, events: Sequence[TransitionEvent] | str) -> str:
        return self.page("_history.html", events=events)

    def conditions(self, seen: Seen[list[Measurement]] | None) -> str:
        return self.page("_measurements.html", seen=seen, empty="Being measured …")

    def health(self, seen: Seen[list[Measurement]] | None) -> str:
        return self.page("_measurements.html", seen=seen, empty="Being measured …")

    def gates(self, seen: Seen[ReportedGates | str] | None) -> str:
        return self.page("_gates.html", seen=seen)

    def exposure(self, seen: Seen[tuple[AccountExposure, ...]] | None) -> str:
        return self.page("_exposure.html", seen=seen)

    def recovery(self, seen: Seen[RecoveryState | str | None]) -> str:
        return self.page("_recovery.html", seen=seen)

    def pending(self, waiting: Sequence[PendingTrip]) -> str:
        """Trips that wait on this host until Redis is back."""
        return self.page("_pending.html", waiting=waiting)

    def kills(self, seen: Sequence[KillStatus]) -> str:
        """The newest runs of the kill switch, a line each."""
        return self.page("_kills.html", kills=seen[:3])

    def kill_runs(self, runs: Sequence[KillStatus]) -> str:
        """The runs of one incident in full."""
        return "".join(self.page("_kill.html", kill=run) for run in runs)


def _time(moment: datetime | None) -> Markup | str:
    """A point in the past; with JavaScript the page adds how long ago that is."""
    if moment is None:
        return "—"
    return Markup('<time datetime="{}" data-ago>{}</time>').format(moment.isoformat(), formatting.utc(moment))


def _until(moment: datetime | None) -> Markup | str:
    """A point in the future; with JavaScript the page counts down to it."""
    if moment is None:
        return "—"
    left = (moment - datetime.now(UTC)).total_seconds()
    return Markup('<time datetime="{}" data-until>{} (in {})</time>').format(
        moment.isoformat(), formatting.utc(moment), formatting.ago(left)
    )


def _fingerprint(folder: Path) -> str:
    """Changes when any static file does, so that browsers may keep them for ever."""
    return _digest(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]
