"""Tell who is at the keyboard. Standard library only, as the way to the standby needs it."""

from __future__ import annotations

import os
from pathlib import Path

LOGIN_UID = Path("/proc/self/loginuid")
"""Whom the system logged in, kept through `su` and `sudo` and not for the asking; Linux's audit sets it."""
_UNSET = 2**32 - 1


def login_name() -> str:
    """The login of this process's user; the person behind sudo rather than root.

    From the system's own list, not from LOGNAME or USER: permissions go by it, and those anybody may set. Root can set
    SUDO_USER too, so it is believed only where the system has not logged in somebody else (`LOGIN_UID`). Where that is
    not kept, as in most containers, what root claims stands.
    """
    if os.geteuid() == 0 and (behind_sudo := os.environ.get("SUDO_USER")) and _may_be(behind_sudo):
        return behind_sudo
    return _name_of(os.getuid())


def behind_sudo() -> str:
    """What is known of who is behind sudo, for the record beside `login_name`; empty where root claims nobody.

    `SUDO_USER` and `SUDO_UID` are what root's environment claims, the login uid what the system has kept.
    """
    claimed = os.environ.get("SUDO_USER", "")
    if os.geteuid() != 0 or not claimed:
        return ""
    logged_in = _login_uid()
    kept = "not kept" if logged_in is None else str(logged_in)
    uid = os.environ.get("SUDO_UID", "none")
    return f"uid {os.getuid()}, SUDO_USER {claimed:.64}, SUDO_UID {uid:.20}, login uid {kept}"


def _may_be(name: str) -> bool:
    """Whether the system has logged in `name`, or does not keep whom."""
    logged_in = _login_uid()
    return logged_in is None or _name_of(logged_in) == name


def _login_uid() -> int | None:
    """Whom the system has logged in; None where it doesn't keep that."""
    try:
        logged_in = int(LOGIN_UID.read_text("ascii"))
    except (OSError, ValueError):
        return None
    return None if logged_in == _UNSET else logged_in


def _name_of(uid: int) -> str:
    import pwd  # noqa: PLC0415  most often the operator is named

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
