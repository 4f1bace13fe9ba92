"""Run a primary, its replicas and the Sentinels that watch them, to break them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import redis

from breaker.redis_clients import open_redis
from sandbox.child_process import end, free_port, spawn
from sandbox.embedded_redis import EmbeddedRedis, find_binary
from tests.helpers import eventually

MASTER = "breaker"
DOWN_AFTER = 1_000
"""Milliseconds without an answer after which a Sentinel takes a server for dead. With 300 a busy machine flaps."""

FAILOVER_TIMEOUT = 10_000
"""Milliseconds that a failover gets. With too few another Sentinel begins the next before it has heard of its end."""


class WatchedServers:
    """`replicas` of one primary under `sentinels` Sentinels. `config`: further settings of each server."""

    def __init__(
        self,
        home: Path,
        *,
        replicas: int = 1,
        sentinels: int = 1,
        config: dict[str, str] | None = None,
    ) -> None:
        self._home = home
        self._replicas = replicas
        self._config = {"repl-diskless-sync-delay": "0"} | (config or {})
        self.servers: list[EmbeddedRedis] = []
        self._ports = [free_port() for _ in range(sentinels)]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def addresses(self) -> list[str]:
        """Where the Sentinels are, as `[redis] sentinels` has them."""
        return [f"127.0.0.1:{port}" for port in self._ports]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(self.addresses)}/{MASTER}/0"

    @property
    def primary(self) -> EmbeddedRedis:
        """As the first Sentinel has it now."""
        with redis.Redis(port=self._ports[0], decode_responses=True) as sentinel:
            port = int(sentinel.sentinel_get_master_addr_by_name(MASTER)[1])
        return next(server for server in self.servers if server.port == port)

    def promoted(self, other_than: EmbeddedRedis) -> EmbeddedRedis:
        """Waits until the Sentinels name another primary, and it says that it is one."""

        def found() -> EmbeddedRedis | None:
            if (server := self.primary) is other_than:
                return None
            with redis.Redis(port=server.port) as client:
                return server if client.info("replication")["role"] == "master" else None

        return cast(EmbeddedRedis, eventually(found, "no other server was promoted", every=0.01))

    def ask_for_failover(self) -> None:
        """Have a Sentinel replace the primary, which is well; asked again until it is ready to."""

        def begun() -> bool:
            with redis.Redis(port=self._ports[0]) as sentinel:
                try:
                    return bool(sentinel.execute_command("SENTINEL", "FAILOVER", MASTER))
                except redis.ResponseError:
                    return False

        eventually(begun, "no Sentinel would fail over", every=0.1)

    def settled(self, replicas: int) -> None:
        """Waits until so many replicas have what the primary has."""

        def there() -> bool:
            try:
                with open_redis(self.url, timeout=5) as client:
                    client.set("a write to wait for", 1)
                    return bool(client.wait(replicas, 200) >= replicas)
            except redis.RedisError:  # not yet enough replicas to write, or a primary on its way out
                return False

        eventually(there, "the replicas never came online")

    def known(self) -> None:
        """Waits until every Sentinel knows of all servers and of every other Sentinel."""

        def all_known() -> bool:
            for port in self._ports:
                with redis.Redis(port=port) as sentinel:
                    master = sentinel.sentinel_master(MASTER)
                if master["num-slaves"] < self._replicas or master["num-other-sentinels"] < len(self._ports) - 1:
                    return False
            return True

        eventually(all_known, "the Sentinels never found each other")

    def __enter__(self) -> Self:
        primary = self._start_server({})
        for _ in range(self._replicas):
            self._start_server({"replicaof": f"127.0.0.1 {primary.port}"})
        for port in self._ports:
            self._processes.append(self._start_sentinel(port, primary.port))
        self.known()
        self.settled(self._replicas)
        return self

    def _start_server(self, config: dict[str, str]) -> EmbeddedRedis:
        server = EmbeddedRedis(self._home / f"server-{len(self.servers)}", config=self._config | config).start()
        self.servers.append(server)
        return server

    def _start_sentinel(self, port: int, primary: int) -> subprocess.Popen[bytes]:
        folder = self._home / f"sentinel-{port}"
        folder.mkdir()
        file = folder / "sentinel.conf"
        quorum = len(self._ports) // 2 + 1
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder / 'sentinel.log'}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {primary} {quorum}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {MASTER} {FAILOVER_TIMEOUT}\n"
        )
        process = spawn([str(find_binary()), str(file), "--sentinel"])
        eventually(lambda: _answers(port), "a Sentinel never answered")
        return process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            end(process, within=5)
        for server in self.servers:
            server.stop()


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
