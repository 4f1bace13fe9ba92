"""Run what is scheduled once at a time on a host.

Not by a concurrency limit of the orchestrator's: there, a run whose process is killed keeps its place for five minutes,
and for good if the orchestrator is started again meanwhile, and nothing is verified in that time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from breaker.process_lock import process_lock
from configuration.settings import Settings

STILL_RUNNING = "Skipped: the one before is still running."


@contextmanager
def single_run(settings: Settings, name: str) -> Iterator[bool]:
    """Whether no other process of this host is at `name`. A state directory without locks holds up nobody."""
    directory = settings.state_dir
    with ExitStack() as opened:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            acquired = opened.enter_context(process_lock(directory / f"{name}.lock"))
        except OSError:
            acquired = True
        yield acquired
