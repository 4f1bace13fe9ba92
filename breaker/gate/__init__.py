"""Judge each order before it leaves the engine: `Gate` says yes or no, without I/O.

Names are imported when first used, so that a part of the gate doesn't cost its user the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from breaker.lazy_imports import lazy_names

if TYPE_CHECKING:
    from breaker.gate.decision import Decision, OrderRefused, Permit, Reason
    from breaker.gate.gate import Gate
    from breaker.gate.intents import OrderIntent
    from breaker.gate.quiet_period import QuietPeriodLimits
    from breaker.gate.status import GateStatus
    from breaker.gate.topology import Topology

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

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(__all__, "breaker.gate.decision"),
        "Gate": "breaker.gate.gate",
        "GateStatus": "breaker.gate.status",
        "OrderIntent": "breaker.gate.intents",
        "QuietPeriodLimits": "breaker.gate.quiet_period",
        "Topology": "breaker.gate.topology",
    },
)
