"""A Redis in which no breaker can be tripped is named by every part: a node of a cluster, one that misses replicas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from breaker import CircuitBreaker
from breaker.errors import InvalidInput, RedisRefused
from breaker.gate import Gate
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.helpers import eventually


@pytest.fixture
def node(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    # Its port is a free one as well: left alone it is the node's plus 10,000, which can be none at all.
    cluster = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with EmbeddedRedis(tmp_path / "node", config=cluster) as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            eventually(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield server


def test_library_gate_and_doctor_say_so(
    node: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    with redis.Redis.from_url(node.url) as client, pytest.raises(RedisRefused, match="node of a Redis Cluster"):
        CircuitBreaker(client).trip("MANUAL")
    with RedisCluster.from_url(node.url) as cluster, pytest.raises(InvalidInput, match="For a cluster"):
        Gate(cluster)
    write_configuration(f'redis_url = "{node.url}"\n')
    trip = breaker_cli("trip")
    assert trip.returncode == 4 and "node of a Redis Cluster" in trip.stderr
    checks = json.loads(breaker_cli("doctor", "--json").stdout)["checks"]
    (settings,) = [check for check in checks if check["name"] == "redis/settings"]
    assert settings["colour"] == "red" and "Redis Cluster" in settings["problem"]


def test_a_redis_without_the_replicas_that_its_writes_need_is_red(
    own_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    write_configuration(f'redis_url = "{own_server.url}"\n')
    with redis.Redis.from_url(own_server.url) as client:
        CircuitBreaker(client).initialize_state()
        client.config_set("min-replicas-to-write", 1)
    checks = json.loads(breaker_cli("doctor", "--json").stdout)["checks"]
    (settings,) = [check for check in checks if check["name"] == "redis/settings"]
    assert settings["colour"] == "red" and "0 of 1 replicas of min-replicas-to-write" in settings["problem"]
