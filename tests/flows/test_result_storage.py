"""A recovery whose host dies goes on on another one with what was done, where results are kept for both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import redis
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from breaker import CircuitBreaker
from configuration.prefect_settings import PrefectSettings
from flows.recovery import recovery
from proofs.fork_server import Forked, ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.prefect_server import PrefectServer
from tests.helpers import eventually

CONFIGURATION = """
redis_url = "{redis}"
state_dir = "{state}"
[prefect]
result_storage = "{results}"
[recovery]
prometheus_url = "{prometheus}"
panels.orders = "orders"
"""
GATHERING, NOTIFIED = "1. Gather the evidence, round 1", "Notify: the trip, round 1"


class SlowPrometheus:
    """Answers nothing of use, and only once it may: gathering the evidence is under way until then."""

    def __init__(self) -> None:
        self.asked, self.may_answer = Event(), Event()
        slow = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                slow.asked.set()
                slow.may_answer.wait(60)
                self.send_error(503)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def prometheus() -> Iterator[SlowPrometheus]:
    slow = SlowPrometheus()
    yield slow
    slow.close()


@pytest.mark.parametrize("kept", ["shared", "own", "nowhere"])
async def test_what_was_done_on_a_host_that_died_is_done_again_only_where_nobody_kept_it(
    prefect: PrefectServer,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    fork_server: ForkServer,
    prometheus: SlowPrometheus,
    tmp_path: Path,
    kept: str,
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    incident = CircuitBreaker(redis_client).trip("MANUAL", details={"reason": "a test"}).incident_id
    configuration = tmp_path / "breaker.toml"
    configuration.write_text(
        CONFIGURATION.format(
            redis=redis_server.url,
            state=tmp_path / "state",
            results={"shared": tmp_path / "results", "own": "", "nowhere": "/proc/nowhere"}[kept],
            prometheus=prometheus.url,
        )
    )
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        deployed = await recovery.ato_deployment("on-two-hosts", entrypoint_type=EntrypointType.MODULE_PATH)
        deployment = await deployed.aapply()
        async with get_client() as client:
            asked = {"incident_id": incident, "scope": "global"}
            flow_run = await client.create_flow_run_from_deployment(deployment, parameters=asked)

            def run_on(host: str) -> Forked:
                ours = {"PREFECT_HOME": str(tmp_path / host), "PREFECT_API_URL": prefect.api_url}
                ours |= {"PREFECT__FLOW_RUN_ID": str(flow_run.id), "BREAKER_CONFIG": str(configuration)}
                return fork_server.start("prefect.engine", env=os.environ | ours, cwd=Path(__file__).parents[2])

            dies = run_on("dies")
            eventually(prometheus.asked.is_set, "it did not begin to gather the evidence")
            dies.kill()
            dies.wait()
            await client.set_flow_run_state(flow_run.id, Scheduled(), force=True)
            prometheus.may_answer.set()
            lives = run_on("lives")
            lives.wait(60)

    def states(task: str) -> list[str]:
        query = {"flow_runs": {"id": {"any_": [str(flow_run.id)]}}, "task_runs": {"name": {"any_": [task]}}}
        found = httpx.post(f"{prefect.api_url}/task_runs/filter", json=query, timeout=10).raise_for_status().json()
        return sorted(each["state_name"] for each in found)

    eventually(lambda: "Completed" in states(GATHERING), lambda: states(GATHERING))
    told = ["Cached" if kept == "shared" else "Completed", "Completed"]
    eventually(lambda: states(NOTIFIED) == told, lambda: states(NOTIFIED))


@pytest.mark.parametrize("place", ["", "/mnt/results", "s3://bucket/results", "s3-bucket/results"])
def test_a_place_for_results_is_a_directory_a_url_or_a_block(place: str) -> None:
    assert PrefectSettings(result_storage=place).result_storage == place


@pytest.mark.parametrize("place", ["results", "a/b/c", "x/", "s3://key:secret@bucket/results"])
def test_any_other_is_refused(place: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PrefectSettings(result_storage=place)
    assert "a block as `type/name`" in str(refused.value) or "credentials" in str(refused.value)
