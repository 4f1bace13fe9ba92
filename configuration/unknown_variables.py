"""Find `BREAKER_*` variables that no setting has."""

from __future__ import annotations

import os

from configuration.settings import Settings

NO_SETTINGS = ("CONFIG", "URL", "TOKEN", "CONFIG_FILE", "DB_PASSWORD", "HOME", "WORK_POOL")
"""What follows `BREAKER_` in variables that are no settings: of the command line, docker-compose.yml, prefect.yaml."""
_OF_TESTS = ("TEST_", "REQUIRE_", "PROMETHEUS", "AXE", "CHROMIUM", "API_EXAMPLES", "CRASH_SEED")


def unknown_variables() -> list[str]:
    """`BREAKER_*` variables of the environment that no setting has: misspelt, most often. They change nothing.

    A key that is unknown below a known one, as in `BREAKER_KILL__GARD`, is refused by `load_settings` instead.
    """
    known = {*(name.upper() for name in Settings.model_fields), *NO_SETTINGS}
    found = []
    for variable in sorted(os.environ):
        prefix, _, rest = variable.upper().partition("_")
        if prefix == "BREAKER" and not rest.startswith(_OF_TESTS) and rest.split("__")[0] not in known:
            found.append(variable)
    return found
