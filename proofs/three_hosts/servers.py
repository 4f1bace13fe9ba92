"""Start Redis and Sentinel on a machine, by configuration files of their own, which they keep up to date themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import redis

from proofs.sentinels import DOWN_AFTER, FAILOVER_TIMEOUT, MASTER
from sandbox.child_process import Child, spawn
from sandbox.embedded_redis import find_binary

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
QUORUM: Final = 2
_ANSWERS_WITHIN: Final = 1.0
_ALONE: Final = ("nice", "-n", "-10")
"""What watches each other by the second must not wait for what is really on other machines."""
_REDIS: Final = """\
port {port}
bind 0.0.0.0
protected-mode no
dir {home}
logfile {home}/redis.log
save ""
appendonly yes
appendfsync always
maxmemory-policy noeviction
min-replicas-to-write 1
min-replicas-max-lag 2
repl-diskless-sync-delay 0
repl-timeout 5
replica-announce-ip {address}
"""
_SENTINEL: Final = """\
port {port}
bind 0.0.0.0
protected-mode no
dir {home}
logfile {home}/sentinel.log
sentinel announce-ip {address}
sentinel monitor {master} {primary} {redis_port} {quorum}
sentinel down-after-milliseconds {master} {down_after}
sentinel failover-timeout {master} {failover_timeout}
"""


def begin_redis(home: Path, address: str, primary: str) -> Child:
    """The server of this address; where it is started again, it goes on as what it was."""
    file = home / "redis.conf"
    if not file.exists():
        home.mkdir(parents=True)
        follows = "" if primary == address else f"replicaof {primary} {REDIS_PORT}\n"
        file.write_text(_REDIS.format(port=REDIS_PORT, home=home, address=address) + follows)
    return spawn([*_ALONE, str(find_binary()), str(file)])


def begin_sentinel(home: Path, address: str, primary: str) -> Child:
    file = home / "sentinel.conf"
    if not file.exists():
        home.mkdir(parents=True)
        settings = {"port": SENTINEL_PORT, "home": home, "address": address, "master": MASTER, "primary": primary}
        limits = {"quorum": QUORUM, "down_after": DOWN_AFTER, "failover_timeout": FAILOVER_TIMEOUT}
        file.write_text(_SENTINEL.format(**settings, **limits, redis_port=REDIS_PORT))
    return spawn([*_ALONE, str(find_binary()), str(file), "--sentinel"])


def answers(address: str, port: int) -> bool:
    try:
        with redis.Redis(host=address, port=port, socket_timeout=_ANSWERS_WITHIN) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def primary_by(address: str) -> str:
    """Whom the Sentinel at this address has as the primary; empty where it doesn't answer."""
    try:
        with redis.Redis(
            host=address, port=SENTINEL_PORT, socket_timeout=_ANSWERS_WITHIN, decode_responses=True
        ) as sentinel:
            return str(sentinel.sentinel_get_master_addr_by_name(MASTER)[0])
    except (redis.RedisError, TypeError):
        return ""


def replicas_online(address: str) -> int:
    """How many replicas of the server at this address have all that it has, by its own word; -1 for no primary."""
    try:
        with redis.Redis(host=address, port=REDIS_PORT, socket_timeout=_ANSWERS_WITHIN) as client:
            if client.info("replication")["role"] != "master":
                return -1
            client.set("a write to wait for", 1)
            return int(client.wait(2, 500))
    except redis.RedisError:
        return -1
