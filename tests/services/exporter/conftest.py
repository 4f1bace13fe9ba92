from __future__ import annotations

from tests.console.conftest import make_settings, settings

__all__ = ["make_settings", "settings"]
