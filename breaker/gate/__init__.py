"""Judge each order before it leaves the engine: `Gate` says yes or no, without I/O.

Names are imported when first used, so that a part of the gate doesn't cost its user the whole.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from breaker.gate.decision import Decision, OrderIntent, OrderRefused, Permit, Reason
    from breaker.gate.gate import Gate, GateStatus, Topology
    from breaker.gate.quiet_period import QuietPeriodLimits

__all__ = [
    "Decision",
    "Gate",
    "GateStatus",
    "OrderIntent",
    "OrderRefused",
    "Permit",
    "QuietPeriodLimits",
    "Reason",
    "Topology",
]

_HOMES = {
    "Gate": "breaker.gate.gate",
    "GateStatus": "breaker.gate.gate",
    "QuietPeriodLimits": "breaker.gate.quiet_period",
    "Topology": "breaker.gate.gate",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'breaker.gate' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "breaker.gate.decision")), name)
