"""Write commands so that they can be pasted as they stand, into a shell that may know less than this process.

In every text that is printed, a command stands in backticks. Whatever shows such a text to people passes it through
`with_pastable` last, so that what is kept and sent elsewhere has the plain command, and each place shows its own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from configuration.locations import LACKING

COMMAND = re.compile(r"`((?:breaker|python|prefect) [^`]+)`")
"""What is run by this environment's programs and configuration. `make` finds a running `make up` by itself."""


def pastable(command: str, environment: Mapping[str, str] = os.environ) -> str:
    """With what `make up` told this process and not the shell, and with where its program is."""
    program, _, arguments = command.partition(" ")
    given = [*environment.get(LACKING, "").split(), *_given_to_make(environment)]
    variables = "".join(f"{name}={shlex.quote(environment[name])} " for name in given if name in environment)
    return f"{variables}{_program(program)} {arguments}".strip()


def with_pastable(text: str) -> str:
    """`text` with every command in it as `pastable` writes it."""
    return COMMAND.sub(lambda found: f"`{pastable(found[1])}`", text)


def _given_to_make(environment: Mapping[str, str]) -> list[str]:
    """Of the variables on make's command line those that say what is acted on; none that may be a secret."""
    definitions = environment.get("MAKEFLAGS", "").partition("-- ")[2]
    return [name for name in ("BREAKER_CONFIG", "PREFECT_API_URL") if f"{name}=" in definitions]


def _program(name: str) -> str:
    if name == "python":
        return shlex.quote(_from_here(Path(sys.executable)))
    beside = Path(sys.executable).with_name(name)
    return shlex.quote(_from_here(beside)) if shutil.which(name) is None and beside.exists() else name


def _from_here(path: Path) -> str:
    """Short where the shell is in this folder, as it has to be for a configuration that is found there."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
