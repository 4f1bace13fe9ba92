from __future__ import annotations

from tests.tasks.recovery.conftest import (
    configure,
    database_url,
    no_orchestrator_is_configured,
    postgres,
    postgres_url,
    web,
)

__all__ = ["configure", "database_url", "no_orchestrator_is_configured", "postgres", "postgres_url", "web"]
