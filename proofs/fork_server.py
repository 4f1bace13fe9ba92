"""Start Python programs by forking a process that has imported most of what they need already.

Importing takes longer than most commands do. Each program is a process of its own all the same, with its own arguments,
environment, directory and standard streams; what depends on the environment, Prefect above all, it imports itself.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

PACKAGES = (
    "alembic.autogenerate",
    "alembic.command",
    "amplitude",
    "anyio._backends._asyncio",
    "argon2",
    "asgi_lifespan",
    "authlib.oauth2",
    "cachetools",
    "cloudpickle",
    "coolname",
    "dateutil.tz",
    "fastapi",
    "fsspec.asyn",
    "griffe",
    "h2.connection",
    "httpx",
    "humanize",
    "jinja2",
    "joserfc",
    "jsonschema",
    "opentelemetry.propagate",
    "orjson",
    "pendulum",
    "prometheus_client",
    "psycopg2.extras",
    "pydantic_extra_types.pendulum_dt",
    "pydantic_settings",
    "redis.asyncio",
    "rich.live",
    "rich.markdown",
    "rich.progress",
    "rich.prompt",
    "slugify",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.ext.asyncio",
    "stamina",
    "structlog",
    "toml",
    "typer.rich_utils",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.h11_impl",
    "websockets.asyncio.client",
    "yaml",
    "cli.app",
    "cli.audit_commands",
    "cli.circuit_commands",
    "cli.doctor_command",
    "cli.kill_command",
    "cli.recover_commands",
    "cli.service_commands",
    "brokers.alpaca.adapter",
    "ledger.configured",
)
"""What programs here import first or last, and what can be imported whatever the environment says: not Prefect."""
_REQUEST = 262_144


class Forked:
    """A program that was started so; used as a `subprocess.Popen` is."""

    def __init__(self, args: Sequence[str], pid: int, ended: int, stdout: IO[str] | None) -> None:
        self.args = args
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._ended = ended
        weakref.finalize(self, os.close, ended)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        with self._lock:
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            with self._lock:
                if self.returncode is None:
                    self.returncode = int(os.read(self._ended, 32))
        return self.returncode


class ForkServer:
    """The process that forks; several threads may ask it. A context manager."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proofs.fork_server", str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._socket.close()
        self._process.wait(30)

    def start(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
    ) -> Forked:
        """`python -m module arguments`, or `python -c program arguments`, with these streams.

        A stream is a file, its descriptor or DEVNULL; `stdout` may be PIPE. Environment and directory are ours unless
        given.
        """
        request = json.dumps(
            {
                "module": module,
                "arguments": arguments,
                "env": dict(os.environ if env is None else env),
                "cwd": str(cwd or Path.cwd()),
            }
        ).encode()
        reading, writing = os.pipe()
        said = None
        with open(os.devnull, "r+b") as nothing, contextlib.ExitStack() as mine:  # noqa: PTH123
            mine.callback(os.close, writing)
            if stdout == subprocess.PIPE:
                ours, stdout = os.pipe()
                said = os.fdopen(ours)
                mine.callback(os.close, stdout)
            given = (nothing if stream == subprocess.DEVNULL else stream for stream in (stdin, stdout, stderr))
            streams = [stream if isinstance(stream, int) else stream.fileno() for stream in given]
            with self._lock:
                socket.send_fds(self._socket, [request], [*streams, writing])
                pid = int(self._socket.recv(32))
        return Forked([module, *arguments], pid, reading, said)

    def run(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """To its end; what it said, as text. Raises `subprocess.TimeoutExpired` after it has killed it."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self.start(module, *arguments, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            said = []
            for stream in (stdout, stderr):
                stream.seek(0)
                said.append(stream.read().decode())
        return subprocess.CompletedProcess(process.args, status, *said)


def serve(asked: socket.socket) -> None:
    """Fork a child for each request until nobody can ask any more."""
    for name in PACKAGES:
        importlib.import_module(name)
    gc.freeze()  # or each child would go through all of it once more when it ends
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of each child: its id, and where its end is told
    while True:
        for ready in select.select([asked.fileno(), *running], [], [])[0]:
            if ready in running:
                child, told = running.pop(ready)
                os.close(ready)
                _, status = os.waitpid(child, 0)
                with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(told)
                continue
            request, descriptors, _, _ = socket.recv_fds(asked, _REQUEST, 4)
            if not request:
                return
            child = os.fork()
            if child == 0:
                asked.close()
                for descriptor in (descriptors[3], *running, *(told for _, told in running.values())):
                    os.close(descriptor)
                _become(json.loads(request), descriptors[:3])
                return
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            running[os.pidfd_open(child)] = child, descriptors[3]
            asked.send(str(child).encode())


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Run the program in this process, which then ends as any interpreter does."""
    # A server that was started in the background has inherited an ignored Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])
    sys.argv = [request["module"], *request["arguments"]]
    if request["module"] == "-c":
        program = sys.argv.pop(1)
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
