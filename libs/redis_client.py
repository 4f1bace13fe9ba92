"""Hand on `RedisClient` by the name that the operations runbook imports it by; it is redis-py's own client."""

from redis import Redis as RedisClient

__all__ = ["RedisClient"]
