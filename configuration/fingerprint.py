"""Compare the configurations of two processes of this host.

Standard library only: `breaker kill --yes` imports it between the operator's key and the first cancel.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from configuration.locations import configuration_file


def configuration_fingerprint() -> dict[str, Any]:
    """What the configuration is, without its secrets: a standby with another one must not flatten other accounts."""
    file = configuration_file()
    return {
        "file": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
        "variables": {
            name: hashlib.sha256(value.encode()).hexdigest()
            for name, value in os.environ.items()
            if name.startswith("BREAKER_") and name != "BREAKER_CONFIG"
        },
    }


def same_configuration(asked: object, ours: Mapping[str, Any]) -> bool:
    """Whether what the asker has is what we have; we may know more, such as secrets that a shell is not given."""
    if not isinstance(asked, Mapping):
        return False
    variables = asked.get("variables")
    same_file = asked.get("file") in (None, ours["file"])
    return same_file and isinstance(variables, dict) and variables.items() <= ours["variables"].items()
