"""Trip, reset and read the circuit breaker that every order passes; `breaker.gate` asks it about each order.

Names are imported when first used, so that `import breaker` costs a trading engine almost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from breaker.lazy_imports import lazy_names

if TYPE_CHECKING:
    from breaker.circuit import AsyncCircuitBreaker, CircuitBreaker
    from breaker.durability import Durability
    from breaker.errors import (
        BreakerError,
        BreakerUnavailable,
        InvalidInput,
        NotTripped,
        RedisRefused,
        ResetRateLimited,
        StateConflict,
    )
    from breaker.events import TransitionEvent
    from breaker.redis_clients import open_async_redis, open_redis
    from breaker.state import State, Status
    from breaker.trip_reasons import TripReason

__all__ = [
    "AsyncCircuitBreaker",
    "BreakerError",
    "BreakerUnavailable",
    "CircuitBreaker",
    "Durability",
    "InvalidInput",
    "NotTripped",
    "RedisRefused",
    "ResetRateLimited",
    "State",
    "StateConflict",
    "Status",
    "TransitionEvent",
    "TripReason",
    "open_async_redis",
    "open_redis",
]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(__all__, "breaker.errors"),
        "AsyncCircuitBreaker": "breaker.circuit",
        "CircuitBreaker": "breaker.circuit",
        "Durability": "breaker.durability",
        "State": "breaker.state",
        "Status": "breaker.state",
        "TransitionEvent": "breaker.events",
        "TripReason": "breaker.trip_reasons",
        "open_async_redis": "breaker.redis_clients",
        "open_redis": "breaker.redis_clients",
    },
)
