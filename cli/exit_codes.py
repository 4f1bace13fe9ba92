"""Define what the exit status of a command says. Documented in `breaker --help`; scripts rely on them."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    """Done; for `kill`: the venue says that every account is flat."""
    REFUSED = 1
    """The breaker refused (not tripped, rate limited, changed meanwhile); nothing changed."""
    USAGE = 2
    """The command line or the configuration cannot be used; nothing changed."""
    NOT_FLAT = 3
    """Halted, but not proven flat."""
    NOT_HALTED = 4
    """Could not halt, not as durably as `trip_durability` asks for, or the breaker's state could not be read."""


EPILOG = (
    "Exit status: 0 done (kill: flat) · 1 refused, nothing changed · 2 usage or configuration, nothing changed · "
    "3 halted but not flat · 4 could not halt (or not as durably as configured), or the state cannot be read"
)
