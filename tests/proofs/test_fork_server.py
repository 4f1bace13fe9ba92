"""What the fork server starts is a process like any other: its own arguments, environment, streams, end and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from proofs.fork_server import ForkServer
from tests.helpers import eventually

SAY = """
import os, sys
print(sys.argv, os.getcwd(), sorted(os.environ))
print("to the other stream", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


def test_a_program_has_arguments_environment_directory_and_streams_of_its_own(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    done = fork_server.run("-c", SAY, "7", "two words", env={"ONLY": "this"}, cwd=tmp_path, timeout=30)
    assert done.returncode == 7
    assert done.stdout == f"{['-c', '7', 'two words']} {tmp_path} ['ONLY']\n"
    assert done.stderr == "to the other stream\n"
    module = fork_server.run("json.tool", str(tmp_path / "none"), env={}, cwd=tmp_path, timeout=30)
    assert module.returncode == 2 and "none" in module.stderr


def test_a_program_that_fails_says_so_as_any_other(fork_server: ForkServer, tmp_path: Path) -> None:
    failed = fork_server.run("-c", "1 / 0", env={}, cwd=tmp_path, timeout=30)
    assert failed.returncode == 1
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_it_is_waited_for_signalled_and_killed(fork_server: ForkServer, tmp_path: Path) -> None:
    program = "import time; print('up', flush=True); time.sleep(600)"
    process = fork_server.start("-c", program, env={}, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.kill()
    assert process.wait(30) == process.poll() == -signal.SIGKILL
    process.kill()
    assert not psutil.pid_exists(process.pid)
    interrupted = fork_server.start("-c", program, env={}, cwd=tmp_path, stdout=subprocess.PIPE)
    assert interrupted.stdout is not None and interrupted.stdout.readline() == "up\n"
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(30) == -signal.SIGINT


def test_several_run_at_once_and_one_that_takes_too_long_is_ended(fork_server: ForkServer, tmp_path: Path) -> None:
    program = "import sys; sys.stdin.read()"
    reading, writing = os.pipe()
    running = [fork_server.start("-c", program, env={}, cwd=tmp_path, stdin=reading) for _ in range(3)]
    os.close(reading)
    assert [process.poll() for process in running] == [None] * 3
    os.close(writing)
    assert [process.wait(30) for process in running] == [0] * 3
    with pytest.raises(subprocess.TimeoutExpired):
        fork_server.run("-c", "import time; time.sleep(600)", env={}, cwd=tmp_path, timeout=0.2)


def test_prefect_reads_the_environment_when_it_is_imported(fork_server: ForkServer, tmp_path: Path) -> None:
    program = (
        "import os, sys; print('prefect' in sys.modules, 'sqlalchemy' in sys.modules)\n"
        "os.environ['PREFECT_API_URL'] = 'http://127.0.0.1:2/api'\n"
        "from prefect.settings import PREFECT_API_URL, PREFECT_HOME; import logging, prefect, prefect.flow_engine\n"
        "print(PREFECT_API_URL.value(), PREFECT_HOME.value(), logging.getLogger('prefect').level)\n"
        "print(prefect.__spec__.origin == prefect.__file__, sys.modules['prefect'] is prefect)"
    )
    environment = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = fork_server.run("-c", program, env=environment, cwd=tmp_path, timeout=30)
    assert done.stdout.splitlines() == ["False True", f"http://127.0.0.1:2/api {tmp_path / 'home'} 40", "True True"]
    assert done.stderr == ""


def test_several_share_one_until_the_last_of_them_ends(tmp_path: Path) -> None:
    program = "import os; print(os.getppid())"
    with ForkServer(tmp_path / "server") as first, ForkServer(tmp_path / "server") as second:
        (server,) = {int(each.run("-c", program, env={}).stdout) for each in (first, second)}
        first.__exit__()
        assert int(second.run("-c", program, env={}).stdout) == server
        process = second.start("-c", "import time; time.sleep(600)", env={})
    eventually(lambda: has_ended(server) and has_ended(process.pid))
    with ForkServer(tmp_path / "server") as third:
        assert int(third.run("-c", program, env={}).stdout) != server


CHILD = """
import os, subprocess, sys
reading, writing = os.pipe()
program = "import os, sys; os.write(int(sys.argv[1]), f'{os.getpid()} '.encode()); print(os.environ['A']); sys.exit(5)"
done = subprocess.run(
    [sys.executable, "-c", program, str(writing)],
    env={"A": "its own"}, pass_fds=[writing], stdout=subprocess.PIPE, text=True, check=False,
)
print(done.returncode, done.stdout.strip(), os.read(reading, 32).decode())
waiting = subprocess.Popen(
    [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE, text=True,
)
forked = waiting.stdout.readline().strip()
{end}
print(waiting.wait(30), forked)
"""


@pytest.mark.parametrize("end", ["waiting.terminate()", "waiting.kill()"])
def test_the_python_programs_that_it_starts_may_be_forked_too(
    end: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    program = CHILD.replace("{end}", end)
    started = fork_server.start("-c", program, env={}, cwd=tmp_path, stdout=subprocess.PIPE, children=True)
    assert started.stdout is not None
    first, second = started.stdout.read().splitlines()
    assert first.startswith("5 its own ")
    status, forked = second.split()
    assert int(status) == (-signal.SIGTERM if "terminate" in end else -signal.SIGKILL)
    eventually(lambda: has_ended(int(forked)))


def has_ended(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    program = (
        "import time; from proofs.fork_server import ForkServer; server = ForkServer()\n"
        "print(server.run('-c', 'import os; print(os.getppid())', env={}, cwd='/', timeout=60).stdout, flush=True)\n"
        "time.sleep(600)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.kill()
    eventually(lambda: has_ended(server))
