"""Real servers for every test that needs one, and no orchestrator for any that doesn't start it."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest
import redis
from hypothesis import HealthCheck, settings

from proofs.fork_server import ForkServer
from sandbox.child_process import Child
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.prefect_server import PrefectServer
from tests.helpers import FULL
from tests.ledger.servers import Postgres

# Nobody listens on port 1. Without an address Prefect would start a server of its own in this process, for ten seconds.
# Here and not in a fixture, as Prefect reads its settings when it is imported.
os.environ["PREFECT_API_URL"] = "http://127.0.0.1:1/api"

# Each client reads who vouches for servers, though none here speaks TLS to the outside: from a file all of them, which
# takes longer than most requests, from a directory only whom it needs.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = ssl.get_default_verify_paths().openssl_capath

# How long an example takes is the machine's doing, and no finding.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100 if FULL else 40
)
settings.load_profile("tests")

_MIGRATE = (
    "import asyncio; from prefect.server.database import provide_database_interface; "
    "asyncio.run(provide_database_interface().create_db())"
)
_numbers = itertools.count()

LONGEST = (
    "tests/services/test_recovery_served.py",
    "tests/cli/test_worst_day.py",
    "tests/flows/test_health_verification.py",
    "tests/browser/test_console.py",
    "tests/cli/test_kill_command.py",
    "tests/breaker/gate/test_gate_faults.py",
    "tests/tasks/test_campaigns.py",
    "tests/flows/test_kill_switch.py",
    "tests/services/test_standby.py",
    "tests/cli/test_venue_lock.py",
    "tests/deployments/test_emergency.py",
    "tests/tasks/test_venue_lock.py",
    "tests/cli/test_pending_trips.py",
    "tests/tasks/test_flatten.py",
    "tests/cli/test_kill_scope.py",
    "tests/browser/test_recovery.py",
    "tests/cli/test_prompts.py",
    "tests/proofs/test_crash_points.py",
    "tests/services/test_exits_resumed.py",
    "tests/proofs/test_kill_matrix.py",
    "tests/console/test_kills.py",
    "tests/distributions/test_distributions.py",
    "tests/cli/test_notices.py",
    "tests/console/test_pages.py",
    "tests/flows/test_resume.py",
    "tests/deployments/test_up.py",
    "tests/deployments/test_demo.py",
    "tests/breaker/test_faults.py",
    "tests/proofs/test_takeover.py",
    "tests/proofs/test_histories.py",
)
"""The files that take longest. They begin first, lest a worker is still busy with one when the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))


_started = pytest.StashKey[EmbeddedRedis]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test finds the session's Redis empty, whoever used it before."""
    server = item.session.stash.get(_started, None)
    if server is not None and "redis_server" in getattr(item, "fixturenames", ()):
        with redis.Redis.from_url(server.url) as client:
            client.flushall()


@pytest.fixture(scope="module", autouse=True)
def _no_copy_of_a_spool_comes_late() -> Iterator[None]:
    """Into what the next file's tests find in Redis."""
    yield
    for thread in threading.enumerate():
        if thread.name == "copy of the spool":
            thread.join(1.0)


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One server for the session. Tests that stop, stall or misconfigure a server start one of their own."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        request.session.stash[_started] = server
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client on an empty database 0."""
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that the test may break."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The session's PostgreSQL. A test that stops it has to start it again."""
    server = Postgres(tmp_path_factory.mktemp("postgres") / "data", survives="processes")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, on each kind: a test that takes it runs twice."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'audit.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"ledger_{next(_numbers)}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty database on PostgreSQL, for what only it can do."""
    name = f"ledger_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def fork_server(shared_directory: Path) -> Iterator[ForkServer]:
    """Starts our commands without the seconds that they need for their imports."""
    with ForkServer(shared_directory / "fork-server") as server:
        yield server


PrefectHome = Callable[[Path], Path]


@pytest.fixture(scope="session")
def prefect_home(shared_directory: Path, fork_server: ForkServer) -> PrefectHome:
    """Makes a home for Prefect of a directory: with a database that is migrated, which takes longer than most tests."""
    template = shared_directory / "prefect-template"
    with (shared_directory / "prefect-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (template / "ready").exists():
            template.mkdir(exist_ok=True)
            migrated = fork_server.run("-c", _MIGRATE, env={**os.environ, "PREFECT_HOME": str(template)})
            assert migrated.returncode == 0, migrated.stderr
            (template / "ready").touch()

    def make(home: Path) -> Path:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(template / "prefect.db", home)
        return home

    return make


NewPrefect = Callable[[Path], PrefectServer]


@pytest.fixture(scope="session")
def new_prefect(prefect_home: PrefectHome, fork_server: ForkServer) -> NewPrefect:
    """Makes a Prefect server with a home there, which the test is to start and to stop."""

    def start(command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]) -> Child:
        # Blocks that Prefect brings along are none of ours, and take as long to register as the server to start.
        return fork_server.start_command(
            command, env={**env, "PREFECT_API_BLOCKS_REGISTER_ON_START": "0"}, output=output
        )

    return lambda home: PrefectServer(prefect_home(home), start=start)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory, new_prefect: NewPrefect) -> Iterator[PrefectServer]:
    """The session's Prefect server."""
    with new_prefect(tmp_path_factory.mktemp("prefect")) as server:
        yield server
