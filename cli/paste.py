"""Print commands so that they can be pasted as they stand, into a shell that may know less than this process."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from configuration.locations import LACKING


def pastable(arguments: str) -> str:
    """`breaker ARGUMENTS` for a shell in this folder: with what `make up` told us and not it, and where breaker is."""
    given = os.environ.get(LACKING, "").split()
    variables = "".join(f"{name}={shlex.quote(os.environ[name])} " for name in given if name in os.environ)
    return f"{variables}{_program()} {arguments}"


def _program() -> str:
    started_as = sys.argv[0]
    if Path(started_as).name == "breaker" and shutil.which("breaker") is None:
        return shlex.quote(started_as)
    return "breaker"
