"""Find the configuration file, the state directory and the standby's socket in it.

Standard library only: `breaker kill --yes` looks for its standby there before anything slow is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

LACKING = "MAKE_UP_EXPORTS"
"""The variable in which a running `make up` names those that it gives to `make`, and that a shell doesn't have."""


def configuration_file() -> Path:
    """The file that is read: `BREAKER_CONFIG`, else `breaker.toml` in the working directory."""
    return Path(os.environ.get("BREAKER_CONFIG", "breaker.toml"))


def default_state_dir() -> Path:
    """`breaker` under `$XDG_STATE_HOME`, or else under `~/.local/state`"""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "breaker"


def not_empty(path: object) -> object:
    """Raises ValueError for an empty text, which as a path would be the working directory."""
    if isinstance(path, str) and not path.strip():
        raise ValueError("the path is empty")
    return path


def absolute(path: Path) -> Path:
    """As everybody who works on this host understands it, whatever the working directory is."""
    return path.expanduser().absolute()


def standby_socket(state_dir: Path) -> Path:
    """Where a standby takes requests: one line of JSON goes in, what becomes of it comes out, a line each."""
    return state_dir / "standby.sock"
