"""Test an engine without Redis, or with one of its own: a gate that the test halts and opens, and pytest's fixtures.

The fixtures `breaker_gate`, `tripped` and `embedded_breaker` are there where this library is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from breaker.lazy_imports import lazy_names

if TYPE_CHECKING:
    from breaker.testing.embedded import EmbeddedBreaker, EmbeddedServer
    from breaker.testing.fake_gate import FakeGate, Question

__all__ = ["EmbeddedBreaker", "EmbeddedServer", "FakeGate", "Question"]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("EmbeddedBreaker", "EmbeddedServer"), "breaker.testing.embedded"),
        **dict.fromkeys(("FakeGate", "Question"), "breaker.testing.fake_gate"),
    },
)
