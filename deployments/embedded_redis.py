"""The embedded Redis where deployments look for it."""

from breaker.embedded_redis import EmbeddedRedis, EmbeddedRedisError, find_binary

__all__ = ["EmbeddedRedis", "EmbeddedRedisError", "find_binary"]
