"""Who is at the keyboard: root's SUDO_USER is believed only where the system's own record doesn't say otherwise."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from configuration import login

NOBODY = pwd.getpwnam("nobody")
ROOT = pwd.getpwuid(0).pw_name


@pytest.mark.parametrize(
    ("logged_in", "claimed", "name"),
    [
        (str(NOBODY.pw_uid), "nobody", "nobody"),
        (str(NOBODY.pw_uid), "carol", ROOT),
        ("0", "carol", ROOT),
        (str(2**32 - 1), "carol", "carol"),
        (None, "carol", "carol"),
        ("0", "", ROOT),
    ],
)
def test_root_is_whom_the_system_logged_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged_in: str | None, claimed: str, name: str
) -> None:
    kept = tmp_path / "loginuid"
    if logged_in is not None:
        kept.write_text(logged_in)
    monkeypatch.setattr(login, "LOGIN_UID", kept)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", claimed)
    assert login.login_name() == name
