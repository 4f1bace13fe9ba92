"""One of the three hosts: the services on it, and what happens to them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import psutil

from proofs.fork_server import ForkServer
from proofs.three_hosts.network import Machine, send
from sandbox.child_process import Child
from tests.helpers import eventually

STARTS_WITHIN: Final = 180.0
_GONE_WITHIN: Final = 20.0


class Service:
    """One of a host's. `begin` starts it, `ready` says whether it is at work, `root` is the process above all of its.

    Without `root` that is the process that `begin` has started.
    """

    def __init__(
        self, begin: Callable[[], Child], ready: Callable[[Child], bool], root: Callable[[], int] | None = None
    ) -> None:
        self._begin = begin
        self._ready = ready
        self._root = root
        self.child: Child | None = None

    @property
    def runs(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        if not self.runs:
            self.child = self._begin()

    def is_ready(self) -> bool:
        return self.child is not None and self.runs and self._ready(self.child)

    def pids(self) -> list[int]:
        """Its processes, and all that they have started."""
        if self.child is None or not self.runs:
            return []
        top = self.child.pid if self._root is None else self._root()
        try:
            below = [each.pid for each in psutil.Process(top).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [top, *below] if self._root is None else below

    def wait_for_end(self) -> None:
        if self.child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(_GONE_WITHIN)


class Host:
    """`environment` is what its processes have beside what is this host's own: home and state directory."""

    def __init__(self, machine: Machine, home: Path, environment: Mapping[str, str]) -> None:
        self.machine = machine
        self.home = home
        self.state = home / "state"
        self.state.mkdir(parents=True)
        self.environment = {
            **environment,
            "HOME": str(home),
            "BREAKER_STATE_DIR": str(self.state),
            "PREFECT_HOME": str(home / "prefect"),
        }
        self.services: dict[str, Service] = {}
        """In the order in which they are started."""
        self._forks = machine.do(ForkServer)
        self._worker_forks = machine.do(lambda: ForkServer(home / "worker.sock"))
        self._not_its_own = {self._forks.pid, self._worker_forks.pid}

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def address(self) -> str:
        return self.machine.address

    def worker_root(self) -> int:
        """The process below which the worker is, and all that it runs."""
        assert self._worker_forks.pid is not None
        return self._worker_forks.pid

    def begin(self, module: str, *arguments: str, log: str, worker: bool = False) -> Child:
        """`python -m …` on this host. What a worker starts is started as it is."""
        forks = self._worker_forks if worker else self._forks
        with (self.home / f"{log}.log").open("ab") as output:
            return forks.start(
                module,
                *arguments,
                env=self.environment,
                cwd=self.home,
                stdout=output,
                stderr=output,
                children=worker,
            )

    def run(
        self,
        module: str,
        *arguments: str,
        timeout: float = 60,
        cwd: Path | None = None,
        also: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end, with this environment `also`. Raises `subprocess.TimeoutExpired`."""
        env = {**self.environment, **(also or {})}
        return self._forks.run(module, *arguments, env=env, cwd=cwd or self.home, timeout=timeout)

    def start_command(self, command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]) -> Child:
        """As `sandbox.child_process.spawn`, on this host, for a command that is `python -m …`."""
        return self._forks.start_command(command, env=env, output=output)

    def pids(self) -> list[int]:
        """Every process on it, but for those that only start others."""
        return [pid for pid in self.machine.pids() if pid not in self._not_its_own]

    def kill_all(self) -> None:
        """As when the power fails."""
        eventually(self._killed, "something on the host does not die", within=_GONE_WITHIN)
        for service in self.services.values():
            service.wait_for_end()

    def freeze_all(self) -> None:
        send(signal.SIGSTOP, self.pids())

    def heal(self) -> Iterator[str]:
        """Plug it in, let all go on, start what is not there; yields what is not ready until all is."""
        self.machine.plug_in()
        send(signal.SIGCONT, self.pids())
        for name, service in self.services.items():
            service.start()
            while not service.is_ready():
                yield f"{name} on {self.name}"
                service.start()

    def close(self) -> None:
        eventually(self._killed, "something on the host does not die", within=_GONE_WITHIN)
        for forks in (self._forks, self._worker_forks):
            forks.__exit__()
        self.machine.close()

    def _killed(self) -> bool:
        send(signal.SIGKILL, self.pids())
        return not any(_runs(pid) for pid in self.pids())


def _runs(pid: int) -> bool:
    """A process that has ended stays until whoever started it asks."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
