"""Tell who is at the keyboard. Standard library only, as the way to the standby needs it."""

from __future__ import annotations

import os


def login_name() -> str:
    """The login name; the person behind sudo rather than root."""
    if behind_sudo := os.environ.get("SUDO_USER"):
        return behind_sudo
    from getpass import getuser  # noqa: PLC0415  most often the operator is named

    try:
        return getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
