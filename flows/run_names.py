"""Name flow runs by what they are and when, and keep a pause from being logged as an error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from configuration.settings import Settings


def run_name(what: str) -> Callable[[], str]:
    """For `flow_run_name`: a list of runs then says which was when, in UTC."""

    def name() -> str:
        return f"{what} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"

    return name


def environment_tag(settings: Settings) -> str:
    """On every flow run: which environment it acts on."""
    return f"environment:{settings.environment_name}"


class PausesAreNoErrors(logging.Filter):
    """The orchestrator logs whatever ends a process before the flow is done as an error, waiting for a person too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.ERROR and "Finished in state Suspended" in record.getMessage():
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


def log_pauses_as_information() -> None:
    """For the process that imports the flow; doing so twice is fine."""
    logger = logging.getLogger("prefect.flow_runs")
    if not any(isinstance(each, PausesAreNoErrors) for each in logger.filters):
        logger.addFilter(PausesAreNoErrors())
