"""The systemd units start what there is, keep secrets apart, and let a kill come to its end."""

from __future__ import annotations

import importlib.util
import shlex
from configparser import ConfigParser
from pathlib import Path

import pytest
import typer.main

from cli.app import command_line
from configuration.settings import KillSettings

UNITS = sorted((Path(__file__).parents[2] / "deployments" / "systemd").glob("*.service"))


def read(path: Path) -> ConfigParser:
    unit = ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(path.read_text())
    return unit


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_each_unit_starts_a_command_that_there_is_and_holds_no_secret(path: Path) -> None:
    service = read(path)["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    if program.endswith("/breaker"):
        commands = typer.main.get_command(command_line()).commands  # type: ignore[attr-defined]
        assert arguments[0] in commands
    else:
        assert arguments[0] == "-m" and importlib.util.find_spec(arguments[1]) is not None
    assert service["EnvironmentFile"].startswith("-/etc/breaker/")
    assert service["Restart"] == "always"
    assert not any(word in path.read_text().lower() for word in ("secret_key=", "password="))


@pytest.mark.parametrize("unit", ["standby", "console", "worker"])
def test_what_runs_kills_has_time_to_finish_them_when_it_is_stopped(unit: str) -> None:
    service = read(next(path for path in UNITS if path.stem == f"breaker-{unit}"))["Service"]
    settings = KillSettings()
    assert float(service["TimeoutStopSec"]) > settings.deadline + settings.guard + settings.record_wait
