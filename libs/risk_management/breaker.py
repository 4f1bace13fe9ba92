"""Hand on `CircuitBreaker` by the name that the operations runbook imports it by."""

from breaker import CircuitBreaker

__all__ = ["CircuitBreaker"]
