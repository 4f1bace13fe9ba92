from __future__ import annotations

from tests.tasks.recovery.conftest import configure, no_orchestrator_is_configured, web

__all__ = ["configure", "no_orchestrator_is_configured", "web"]
