"""Set how patient and how loud Prefect's client is, before anything imports it."""

from __future__ import annotations

import os
from typing import Literal

# The client's own patience is over a minute.
_IMPATIENT = {
    "PREFECT_API_REQUEST_TIMEOUT": "2",
    "PREFECT_CLIENT_MAX_RETRIES": "0",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
_LOUDNESS = {
    "terminal": {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"},  # its log lines would tear a display
    "service": {"PREFECT_LOGGING_LEVEL": "WARNING"},
}


def set_prefect_timeouts(where: Literal["terminal", "service"] = "terminal") -> None:
    """Make the client fail within seconds and keep quiet; what the environment says already wins.

    To be called before the client is imported.
    """
    for name, value in {**_IMPATIENT, **_LOUDNESS[where]}.items():
        os.environ.setdefault(name, value)
