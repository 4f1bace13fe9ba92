"""Child processes where deployments look for them."""

from breaker.child_process import free_port, listens, spawn

__all__ = ["free_port", "listens", "spawn"]
