"""Tell whether what a resident process runs by is still what is configured, and read what is.

Such a process reads the configuration once. What it keeps open goes by that until it is restarted; a kill switch goes
by the accounts that are configured when it begins.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from configuration.locations import configuration_file
from configuration.settings import ConfigurationError, Settings, load_settings

BUILT_IN = "built in"
"""Stands for the hash where there is no file."""


@dataclass(frozen=True, slots=True)
class Present:
    """What is configured now, or the last that could be used, and then why that is not what is configured now."""

    settings: Settings
    problem: str = ""


class RunningConfiguration:
    """The settings of this process. Make it before anything slow is done: it looks at the file that they came from."""

    def __init__(self, settings: Settings, *, hash_at_start: str | None = None) -> None:
        self.settings = settings
        self.hash = hash_at_start or configuration_hash()
        self._newest = (self.hash, settings)

    @classmethod
    def load(cls) -> RunningConfiguration:
        """Raises ConfigurationError."""
        before = configuration_hash()
        return cls(load_settings(), hash_at_start=before)

    @property
    def changed(self) -> bool:
        """Whether the file is another one than this process has read: it has to be restarted."""
        return configuration_hash() != self.hash

    def present(self) -> Present:
        """What is configured now. A file that can't be used, or that has lost every account, changes nothing."""
        now = configuration_hash()
        if now == self._newest[0]:
            return Present(self._newest[1])
        problem = f"{configuration_file()} as it is now"
        try:
            settings = load_settings()
        except ConfigurationError as error:
            return Present(self._newest[1], f"{problem}: {error}")
        if self._newest[1].accounts and not settings.accounts:
            return Present(self._newest[1], f"{problem}: it names no account any more")
        self._newest = (now, settings)
        return Present(settings)


def configuration_hash() -> str:
    """Of the file that is configured, short enough to be compared by eye."""
    try:
        return hashlib.sha256(configuration_file().read_bytes()).hexdigest()[:12]
    except FileNotFoundError:
        return BUILT_IN
    except OSError as error:
        return f"unreadable ({error.strerror})"
