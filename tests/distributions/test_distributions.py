"""An engine that installs the library meets no name of ours but `breaker`; the application works without a checkout.

Both are built once for this module, from the checkout, and installed as anybody would install them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from sandbox.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION: str = PROJECT["project"]["version"]
PACKAGES: set[str] = set(PROJECT["tool"]["importlinter"]["root_packages"])
LOCK = ROOT / "distributions" / "ops" / "requirements.lock"
LOCK_OF_TESTS = ROOT / "requirements.lock"
UV = Path(sys.executable).with_name("uv")

ENGINE = {
    "tasks.py": 'OWNER = "the engine"\n',
    "cli.py": 'OWNER = "the engine"\n',
    "flows/__init__.py": 'OWNER = "the engine"\n',
    "trade.py": """\
import json
import sys
from decimal import Decimal

import redis

import cli
import flows
import tasks
from breaker import CircuitBreaker
from breaker.gate import Gate, OrderIntent
from breaker.orders import Side

url = sys.argv[1]
breaker = CircuitBreaker(redis.Redis.from_url(url))
breaker.initialize_state(by="engine")
order = OrderIntent("AAPL", Side.BUY, Decimal(1))
with Gate(url) as gate:
    said = {"owners": [cli.OWNER, flows.OWNER, tasks.OWNER], "opened": gate.wait_until_open(10)}
    said["before"] = bool(gate.check(order))
    breaker.trip("MANUAL", details={"operator": "ada"})
    said["state"] = breaker.get_status()["state"]
    gate.close()
with Gate(url) as gate:
    gate.wait_until_open(0.3)
    said["after"] = bool(gate.check(order))
said["loaded"] = sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)
print(json.dumps(said))
""",
}

ENGINES_TESTS = """\
from breaker.gate import OrderIntent

ORDER = OrderIntent("AAPL", "buy", 1)


def test_open(breaker_gate):
    assert breaker_gate.check(ORDER)


def test_tripped(tripped):
    assert not tripped.check(ORDER)


def test_real(embedded_breaker):
    raise AssertionError("there is no server in this environment")
"""

REHEARSAL = """\
import json
import subprocess
import sys
from pathlib import Path

from redis import Redis

import breaker
from deployments import local_stack
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchange

here = Path.cwd()
book = scenario.load(local_stack.SCENARIO)
book = book.model_copy(update={"book": book.book.model_copy(update={"orders": 20, "positions": 8})})
with EmbeddedRedis(here / "redis") as redis, PaperExchange(book) as exchange:
    breaker.CircuitBreaker(Redis.from_url(redis.url)).initialize_state(by="rehearsal")
    account = local_stack.alpaca_section("PAPER", exchange.url)
    own = {"redis": redis.url, "state": here / "state", "accounts": account}
    configuration = local_stack.CONFIGURATION.format(**own, keys="", sections="")
    (here / "breaker.toml").write_text(configuration)
    command = [sys.argv[1], "kill", "--yes", "--operator", "ada", "--reason", "rehearsal"]
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    report = exchange.report()
homes = [str(Path(module.__file__).parents[4]) for module in (breaker, local_stack)]
print(json.dumps({"homes": homes, "status": status, "flat": report["is_flat"], "violations": report["violations"]}))
"""


@dataclass(frozen=True)
class Built:
    """One distribution's two files."""

    wheel: Path
    sdist: Path

    def files(self) -> dict[str, int]:
        """What the wheel holds, with checksums."""
        with zipfile.ZipFile(self.wheel) as wheel:
            return {each.filename: each.CRC for each in wheel.infolist()}

    def brings(self) -> set[str]:
        """The names that it puts into an environment, besides its own metadata."""
        return {name.partition("/")[0] for name in self.files()} - {f"{self.wheel.name.split('-py3')[0]}.dist-info"}

    def needs(self) -> set[str]:
        """What is installed with it, extras aside."""
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(wheel.read(name).decode())
        return {each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each}


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as if the checkout were not there: no variable of ours or of Python's reaches it."""
    foreign = ("BREAKER_", "PREFECT_", "PYTHON", "PYTEST_", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False, timeout=100
    )


def uv(*arguments: str | Path, **environment: str) -> None:
    done = run(UV, *arguments, cwd=ROOT, **environment)
    assert done.returncode == 0, done.stdout + done.stderr


def found(folder: Path, name: str) -> Built:
    (wheel,), (sdist,) = folder.glob(f"{name}-*.whl"), folder.glob(f"{name}-*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make build`: source distributions from the checkout, and the wheels from these."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--all-packages", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    return folder


@pytest.fixture(scope="module")
def library(dist: Path) -> Built:
    return found(dist, "trading_breaker")


@pytest.fixture(scope="module")
def application(dist: Path) -> Built:
    return found(dist, "trading_breaker_ops")


@pytest.fixture(scope="module")
def engine(library: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trading engine's own folder, with the library in its virtual environment."""
    home = tmp_path_factory.mktemp("engine")
    for name, text in ENGINE.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    python = home / ".venv" / "bin" / "python"
    uv("venv", "--python", sys.executable, home / ".venv")
    uv("pip", "install", "--compile-bytecode", "--python", python, "--constraints", LOCK, library.wheel)
    return home


@pytest.fixture(scope="module")
def tools(application: Built, library: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `uv tool install` puts the application: `bin`, and an environment of its own."""
    home = tmp_path_factory.mktemp("tools")
    wanted = f"trading-breaker-ops[embedded] @ {application.wheel.as_uri()}"
    folders = {"UV_TOOL_DIR": str(home), "UV_TOOL_BIN_DIR": str(home / "bin")}
    python = ("--python", sys.executable)
    uv("tool", "install", *python, "--constraints", LOCK, "--with", library.wheel, wanted, **folders)
    return home


def test_the_library_brings_one_name_and_needs_redis(library: Built) -> None:
    assert library.brings() == {"breaker"}
    assert [each.partition("<")[0] for each in library.needs()] == ["redis"]


def test_the_application_brings_the_rest_and_needs_the_library_of_its_version(application: Built) -> None:
    assert application.brings() == PACKAGES - {"breaker"}
    assert f"trading-breaker=={VERSION}" in application.needs()
    assert application.wheel.name.startswith(f"trading_breaker_ops-{VERSION}-")


def test_every_file_of_every_package_is_in_one_of_them_but_for_the_chart(library: Built, application: Built) -> None:
    chart = ROOT / "deployments" / "helm"
    here = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.is_relative_to(chart)
    }
    brought = library.files().keys() | application.files().keys()
    assert here <= brought
    assert not any(name.startswith("deployments/helm") for name in brought)


@pytest.mark.parametrize("project", [ROOT, ROOT / "distributions" / "ops"], ids=["library", "application"])
def test_a_wheel_is_the_same_without_the_detour_over_the_source_distribution(
    project: Path, dist: Path, tmp_path: Path
) -> None:
    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path, project)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.read_bytes() == (dist / wheel.name).read_bytes()


def test_a_source_distribution_holds_no_tests_and_nothing_local(library: Built, application: Built) -> None:
    for each, packages in ((library, {"breaker"}), (application, PACKAGES - {"breaker"})):
        with tarfile.open(each.sdist) as archive:
            folders = {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1}
        assert folders == packages


def test_an_engine_with_tasks_cli_and_flows_of_its_own_trades_through_the_gate(
    engine: Path, own_server: EmbeddedRedis
) -> None:
    done = run(engine / ".venv" / "bin" / "python", "trade.py", own_server.url, cwd=engine)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["owners"] == ["the engine"] * 3
    assert (said["opened"], said["before"]) == (True, True)
    assert (said["state"], said["after"]) == ("TRIPPED", False)
    assert not {"pydantic", "pydantic_settings", "prefect", "sqlalchemy"} & set(said["loaded"])
    assert PACKAGES & set(said["loaded"]) == {"breaker", "cli", "flows", "tasks"}


def test_importing_the_library_loads_none_of_the_applications_libraries(engine: Path) -> None:
    loaded = "import sys, breaker; print(*{name.partition('.')[0] for name in sys.modules})"
    done = run(engine / ".venv" / "bin" / "python", "-c", loaded, cwd=engine)
    assert done.returncode == 0, done.stderr
    assert not {"pydantic", "sqlalchemy", "httpx", "prefect", "typer", "rich"} & set(done.stdout.split())


def test_an_engines_own_tests_find_the_fixtures_where_the_library_is_installed(engine: Path) -> None:
    python = engine / ".venv" / "bin" / "python"
    uv("pip", "install", "--python", python, "--constraints", LOCK_OF_TESTS, "pytest")
    (engine / "test_engine.py").write_text(ENGINES_TESTS)
    done = run(python, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_engine.py", cwd=engine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 1 skipped" in done.stdout
    assert "install `trading-breaker[testing]`" in done.stdout


def test_the_installed_command_says_its_version(tools: Path, tmp_path: Path) -> None:
    done = run(tools / "bin" / "breaker", "--version", cwd=tmp_path, HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"breaker {VERSION}\n", "")


def test_the_installed_doctor_names_what_is_missing_on_an_empty_machine(tools: Path, tmp_path: Path) -> None:
    nowhere = {"HOME": str(tmp_path), "BREAKER_REDIS_URL": "redis://127.0.0.1:1"}
    done = run(tools / "bin" / "breaker", "doctor", "--json", cwd=tmp_path, **nowhere)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["state"]["colour"] == checks["redis"]["colour"] == "red"
    assert all(check["problem"] for check in checks.values() if check["colour"] == "red")
    # The audit log's migrations came with it.
    assert checks["ledger"]["colour"] == "green", checks["ledger"]


def test_the_installed_command_halts_and_flattens_a_book(tools: Path, tmp_path: Path) -> None:
    (tmp_path / "rehearsal.py").write_text(REHEARSAL)
    python = tools / "trading-breaker-ops" / "bin" / "python"
    nobody = {"HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    done = run(python, "rehearsal.py", tools / "bin" / "breaker", cwd=tmp_path, **nobody)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["homes"] == [str(tools / "trading-breaker-ops")] * 2
    assert (said["status"], said["flat"], said["violations"]) == (0, True, []), done.stderr
    assert "✓ FLAT" in done.stderr
    assert "Traceback" not in done.stderr
