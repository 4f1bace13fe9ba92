"""Name what each kind of Redis user of this project may do, no more than its code asks for.

Scripts count: Redis holds every command that a script calls against the rule of whoever runs it.
"""

from __future__ import annotations

from typing import Literal, get_args

RedisRole = Literal["engine", "operator", "service"]
REDIS_ROLES: tuple[RedisRole, ...] = get_args(RedisRole)

_CONNECT = ("hello", "auth", "ping", "select", "client|setinfo", "client|setname", "client|tracking")
_LIBRARY = (
    # reading
    "time", "get", "exists", "type", "pttl", "hget", "hmget", "hgetall", "hexists", "lrange", "zcard", "zcount",
    "zrangebyscore", "zrevrange", "zscore", "xrevrange", "role", "info",
    # writing, by scripts too
    "eval", "evalsha", "multi", "exec", "set", "del", "rename", "pexpire", "hset", "hdel", "hincrby", "rpush",
    "lset", "ltrim", "zadd", "zrem", "zremrangebyrank", "zremrangebyscore", "xadd", "wait", "waitaof",
)  # fmt: skip
_APPLICATION = (
    "scan", "config|get", "hkeys", "xlen", "xrange", "xread", "xdel", "zrange", "script|load",
    "expire",
)  # fmt: skip
_COMMANDS: dict[RedisRole, tuple[str, ...]] = {
    "engine": (*_CONNECT, *_LIBRARY),
    "operator": (*_CONNECT, *_LIBRARY, *_APPLICATION),
    "service": (*_CONNECT, *_LIBRARY, *_APPLICATION),
}


_SINCE = {"client|setinfo": (7, 2), "waitaof": (7, 2)}
"""Of commands that the oldest Redis we run on (7.0) hasn't got, the first version that has them."""
NEWEST = (99, 0)


def acl_rule(role: RedisRole, version: tuple[int, ...] = NEWEST) -> str:
    """What comes behind `ACL SETUSER NAME on >PASSWORD`: everything else that a user had is taken away.

    Redis refuses a whole rule for one command that its `version` hasn't got.
    """
    allowed = (f"+{each}" for each in _COMMANDS[role] if _SINCE.get(each, version) <= version)
    return " ".join(("resetkeys", "~circuit_breaker:*", "resetchannels", "-@all", *allowed))


def parse_version(text: str) -> tuple[int, ...]:
    """Raises ValueError for what is no version such as 7.0 or 7.0.15."""
    return tuple(int(part) for part in text.split(".")[:2])
