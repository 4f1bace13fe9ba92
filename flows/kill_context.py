"""From the configuration to a run of the kill switch. Imports no orchestrator: the first sweep comes before that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from breaker import AsyncCircuitBreaker
from breaker.settings import ConfigurationError, Settings, load_settings
from breaker.uuid7 import uuid7
from brokers.registry import open_brokers
from tasks.kill.run import KillRun, Observer


def async_breaker(settings: Settings, *, scope: str = "global", source: str = "flow") -> AsyncCircuitBreaker:
    from redis.asyncio import Redis  # noqa: PLC0415  the sync path doesn't pay for it

    redis = Redis.from_url(settings.redis_url.get_secret_value())
    return AsyncCircuitBreaker(
        redis, scope=scope, timeout=settings.redis_timeout, quiet_period=settings.quiet_period, source=source
    )


@asynccontextmanager
async def open_kill_run(
    *,
    reason: str,
    operator: str,
    incident_id: str = "new",
    accounts: Sequence[str] | None = None,
    scope: str = "global",
    settings: Settings | None = None,
    observers: Sequence[Observer] = (),
) -> AsyncIterator[KillRun]:
    """A run on the configured accounts, its connections closed at the end.

    Raises:
        ConfigurationError: an account is not configured, or its adapter is not installed.
    """
    settings = settings or load_settings()
    wanted = list(accounts) if accounts is not None else list(settings.accounts)
    unknown = [name for name in wanted if name not in settings.accounts]
    if unknown:
        known = ", ".join(settings.accounts) or "none"
        raise ConfigurationError(
            f"no account {', '.join(unknown)} is configured (there are: {known}); nothing was sent"
        )
    brokers = open_brokers({name: settings.accounts[name] for name in wanted})
    run = KillRun(
        incident_id=uuid7() if incident_id == "new" else incident_id,
        reason=reason,
        operator=operator,
        breaker=async_breaker(settings, scope=scope),
        brokers=brokers,
        settings=settings.kill,
        observers=tuple(observers),
    )
    try:
        yield run
    finally:
        for broker in brokers.values():
            await broker.aclose()
