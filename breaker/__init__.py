"""The circuit breaker that every order passes.

Names are imported when first used, so that `import breaker` costs a trading engine almost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    from breaker.state import State, Status

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
]

_HOMES = {
    "AsyncCircuitBreaker": "breaker.circuit",
    "CircuitBreaker": "breaker.circuit",
    "Durability": "breaker.durability",
    "State": "breaker.state",
    "Status": "breaker.state",
    "TransitionEvent": "breaker.events",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'breaker' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "breaker.errors")), name)
