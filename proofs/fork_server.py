"""Start Python programs by forking a process that has imported most of what they need already.

Importing takes longer than most commands do. Each program is a process of its own all the same, with its own arguments,
environment, directory and standard streams. Prefect reads the environment when it is imported: it is held back until a
program imports it, and reads the environment anew then.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Self

from sandbox.child_process import die_with_parent

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
"""What programs here import first or last, and what can be imported whatever the environment says."""
PREFECT = (
    "prefect.main",
    "prefect.deployments.runner",
    "prefect.events",
    "prefect.flow_engine",
    "prefect.runner",
    "prefect.server.api.server",
)
"""What a client of Prefect, a runner and the server need of it."""
_REQUEST = 262_144
_STREAMS = 64
_READY = b"ready"
_PYTHON = """\
#!{python} -SE
import runpy
runpy.run_path({stand_in!r})["stand_in"]({python!r}, {address!r})
"""


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
    """The process that forks; several threads may ask it. A context manager.

    Who gives the same `address`, a path for its socket, shares one. It ends with the last who can ask it.
    """

    def __init__(self, address: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.python = Path(sys.executable)
        """What may be started as a Python interpreter is, and starts its program so, if there is an address."""
        if address is None:
            self._socket = self._begin()
            return
        self.python = address.with_suffix(".python")
        with address.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._socket = _join(address) or self._begin(address)
            stand_in = Path(__file__).with_name("fork_stand_in.py")
            self.python.write_text(_PYTHON.format(python=sys.executable, stand_in=str(stand_in), address=str(address)))
            self.python.chmod(0o755)

    @property
    def pid(self) -> int | None:
        """The process whose children the programs are, where it was started by this object."""
        return self._process.pid if self._process is not None else None

    def _begin(self, address: Path | None = None) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as given:
            sockets = [given.enter_context(theirs)]
            if address is not None:
                address.unlink(missing_ok=True)
                sockets.append(given.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
                sockets[-1].bind(str(address))
                sockets[-1].listen()
            descriptors = [each.fileno() for each in sockets]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proofs.fork_server", *map(str, descriptors)],
                cwd=Path(__file__).parents[1],
                pass_fds=descriptors,
                start_new_session=True,
            )
        return ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._socket.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # others may go on using it
                self._process.wait(1)

    def start(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        children: bool = False,
        terminal: bool = False,
    ) -> Forked:
        """`python -m module arguments`, or `python -c program arguments`, with these streams.

        A stream is a file, its descriptor or DEVNULL; `stdout` may be PIPE. Environment and directory are ours unless
        given. With `children` the Python programs that it starts are started so too. With `terminal` its `stdin` is its
        controlling terminal.
        """
        request = json.dumps(
            {
                "module": module,
                "arguments": arguments,
                "env": dict(os.environ if env is None else env),
                "cwd": str(cwd or Path.cwd()),
                "numbers": [0, 1, 2, *pass_fds],
                "python": str(self.python) if children else "",
                "stands_in": False,
                "terminal": terminal,
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
                socket.send_fds(self._socket, [request], [*streams, *pass_fds, writing])
                pid = int(self._socket.recv(32))
        return Forked([module, *arguments], pid, reading, said)

    def start_command(self, command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]) -> Forked:
        """As `sandbox.child_process.spawn`, for a command that is `python -m …`."""
        _, _, module, *arguments = command
        return self.start(module, *arguments, env=env, stdout=output, stderr=output)

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


def _join(address: Path) -> socket.socket | None:
    """Become one of those who may ask the server there; none when it has ended, or is about to."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(OSError):
        ours.connect(str(address))
        if ours.recv(32) == _READY:
            return ours
    ours.close()
    return None


def serve(first: socket.socket, others: socket.socket | None) -> None:
    """Fork a child for each request until neither the first nor any who joined through `others` can ask any more."""
    for name in (*PACKAGES, *PREFECT):
        importlib.import_module(name)
    prefect = _Held("prefect", _prefect_reads_the_environment)
    end_with_us = die_with_parent() or (lambda: None)
    gc.freeze()  # or each child would go through all of it once more when it ends
    asking = {first.fileno(): first}
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of each child: its id, and where its end is told
    standing_in: dict[int, int] = {}  # by the descriptor of the process it stands in for, with which it ends: its id
    while asking:
        joining = [] if others is None else [others.fileno()]
        for ready in select.select([*joining, *asking, *running], [], [])[0]:
            if others is not None and ready == others.fileno():
                joined, _ = others.accept()
                joined.send(_READY)
                asking[joined.fileno()] = joined
                continue
            if ready in running:
                child, told = running.pop(ready)
                os.close(ready)
                standing_in = {asker: each for asker, each in standing_in.items() if each != child}
                _, status = os.waitpid(child, 0)
                with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(told)
                continue
            request, descriptors, _, _ = socket.recv_fds(asking[ready], _REQUEST, _STREAMS)
            if not request:
                asking.pop(ready).close()
                if ready in standing_in:
                    os.kill(standing_in.pop(ready), signal.SIGKILL)
                continue
            told = descriptors.pop()
            asked = json.loads(request)
            child = os.fork()
            if child == 0:
                end_with_us()
                for connection in (*asking.values(), *([] if others is None else [others])):
                    connection.close()
                for descriptor in (told, *running, *(each for _, each in running.values())):
                    os.close(descriptor)
                sys.meta_path.insert(0, prefect)
                _become(asked, descriptors)
                return
            for descriptor in descriptors:
                os.close(descriptor)
            running[os.pidfd_open(child)] = child, told
            if asked["stands_in"]:
                standing_in[ready] = child
            asking[ready].send(str(child).encode())


class _Held(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A package that is imported already and seems not to be, until somebody imports it: `begin` is called then.

    It goes first in `sys.meta_path`.
    """

    def __init__(self, package: str, begin: Callable[[], None]) -> None:
        held = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
        self._package = package
        self._modules = {name: sys.modules.pop(name) for name in held}
        self._spec = self._modules[package].__spec__
        self._begin = begin

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # Known as a package, `python -m prefect` looks for what is to be run in it.
        return importlib.util.spec_from_loader(fullname, self, is_package=True) if fullname == self._package else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._modules[self._package]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
        sys.meta_path.remove(self)
        sys.modules.update(self._modules)
        self._begin()


def _prefect_reads_the_environment() -> None:
    importlib.import_module("prefect.context").refresh_global_settings_context()
    configuration = importlib.import_module("prefect.logging.configuration")
    configuration.PROCESS_LOGGING_CONFIG.clear()
    configuration.setup_logging()


def _become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Run the program in this process, which then ends. Only an error leaves it to the interpreter to end it."""
    # A server that was started in the background has inherited an ignored Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Out of the way first, as one may have come as what another is to be.
    high = [fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 256) for stream in streams]
    for stream in streams:
        os.close(stream)
    for number, stream in zip(request["numbers"], high, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    if request["terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if request["python"]:
        _start_pythons_with(request["python"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])
    sys.argv = [request["module"], *request["arguments"]]
    status: Any = 0
    try:
        if request["module"] == "-c":
            program = sys.argv.pop(1)
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):  # what is to be said
            raise
    _end(status)


def _end(status: int) -> None:
    """As the interpreter ends, but for the taking apart of all modules, which takes longer than most programs."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)  # it has words for that
    os._exit(status & 0xFF)


def _start_pythons_with(stand_in: str) -> None:
    """Whatever this process starts of this interpreter is started by that one."""
    start = subprocess.Popen.__init__

    def start_so(self: subprocess.Popen[Any], args: Any, *rest: Any, **named: Any) -> None:
        if isinstance(args, (list, tuple)) and args[0] == sys.executable:
            args = [stand_in, *args[1:]]
        start(self, args, *rest, **named)

    subprocess.Popen.__init__ = start_so  # type: ignore[method-assign]


if __name__ == "__main__":
    given = [socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:]]
    serve(given[0], given[1] if len(given) > 1 else None)
