"""Tell who is at the keyboard. Standard library only, as the way to the standby needs it."""

from __future__ import annotations

import os


def login_name() -> str:
    """The login of this process's user; the person behind sudo rather than root.

    From the system's own list, not from LOGNAME or USER: permissions go by it, and those anybody may set.
    """
    import pwd  # noqa: PLC0415  most often the operator is named

    if os.geteuid() == 0 and (behind_sudo := os.environ.get("SUDO_USER")):
        return behind_sudo
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
