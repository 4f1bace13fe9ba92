"""The files of `deployments/` say what the code says, and name versions."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.models.root import Settings as PrefectSettings

from configuration.settings import DrillSettings, KillSettings, Settings
from console.serve import check_address
from sandbox.prefect_server import RETENTION
from services import serve
from tasks.trip_announcement import TRIPPED

HERE = Path(__file__).parents[2] / "deployments"


def read(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text())


async def test_prefect_yaml_deploys_what_is_served() -> None:
    written = {each["name"]: each for each in read("prefect.yaml")["deployments"]}
    served = {each.name: each for each in await serve.deployments()}
    assert written.keys() == served.keys()
    for name, deployment in served.items():
        assert written[name]["description"] == deployment.description
        tags = [tag.replace("{{ $BREAKER_ENVIRONMENT }}", "unnamed") for tag in written[name]["tags"]]
        assert tags == deployment.tags
        module, _, function = written[name]["entrypoint"].partition(":")
        assert f"{module.removesuffix('.py').replace('/', '.')}.{function}" == deployment.entrypoint
    assert written["recovery"]["triggers"][0]["expect"] == [TRIPPED]
    assert written["health-verification"]["schedules"][0]["interval"] == serve.VERIFY_EVERY
    assert written["drill"]["schedules"][0]["interval"] == DrillSettings().every


def test_every_image_is_pinned_and_every_port_is_on_loopback() -> None:
    services = read("docker-compose.yml")["services"]
    for name, service in services.items():
        assert re.search(r":v?\d+(\.\d+)+", service["image"]), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_flow_runs_of_long_ago_go_wherever_a_server_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    given = read("docker-compose.yml")["services"]["prefect"]["environment"]
    assert {name: value for name, value in given.items() if "VACUUM" in name} == RETENTION
    for name, value in RETENTION.items():
        monkeypatch.setenv(name, value)
    vacuum = PrefectSettings().server.services.db_vacuum
    assert "flow_runs" in vacuum.enabled_vacuum_types and vacuum.retention_period == timedelta(days=30)


def test_no_secret_has_a_default() -> None:
    text = (HERE / "docker-compose.yml").read_text()
    for variable in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        assert variable[1].startswith(":?"), variable


def test_containers_and_units_run_every_service() -> None:
    composed = [" ".join(service.get("command", ())) for service in read("docker-compose.yml")["services"].values()]
    units = [path.read_text() for path in (HERE / "systemd").glob("*.service")]
    for wanted in ("services.serve", "breaker console", "breaker metrics", "breaker standby"):
        assert any(re.search(wanted, command) for command in composed), wanted
        assert any(re.search(wanted, unit) for unit in units), wanted
    for instead_of_serve in ("breaker services", r"services.pool_worker"):
        assert any(instead_of_serve in unit for unit in units)


def test_containers_that_run_kills_have_time_to_finish_them() -> None:
    services, kill = read("docker-compose.yml")["services"], KillSettings()
    for name in ("deployments", "standby", "console"):
        allowed = float(services[name]["stop_grace_period"].removesuffix("s"))
        assert allowed > kill.deadline + kill.guard + kill.record_wait, name


def test_the_console_as_a_container_starts_with_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = read("docker-compose.yml")["services"]["console"]["environment"]
    for name, value in given.items():
        if name.startswith("BREAKER_CONSOLE__"):
            monkeypatch.setenv(name, value)
    where = Settings().console
    check_address(where)
    assert where.host == "0.0.0.0" and "127.0.0.1" in where.names
