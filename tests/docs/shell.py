"""Run the pages' blocks of shell as they are printed, on a host of the test's own.

What a page takes for given is somewhere else here (its folders, its database), and what can't be had in a test is stood
in for: systemd, git and make only write down what they were asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.docs.pages import ROOT, blocks

_BREAKER = """#!{python} -IS
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asked.connect({path!r})
request = {{"arguments": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
socket.send_fds(asked, [json.dumps(request).encode()], [0, 1, 2])
sys.exit(int(asked.recv(16)))
"""
_NOTED = '#!/bin/sh\necho "$(basename "$0") $*" >> {noted}\n'
STOOD_IN_FOR = ("systemctl", "git", "make")


@contextlib.contextmanager
def breaker_command(path: Path, fork_server: ForkServer) -> Iterator[None]:
    """An executable `breaker` at `path`, without the second that its imports take."""
    with (
        tempfile.TemporaryDirectory(prefix="breaker-") as short,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
    ):
        address = f"{short}/socket"
        listening.bind(address)
        listening.listen()
        path.write_text(_BREAKER.format(python=sys.executable, path=address), encoding="utf-8")
        path.chmod(0o755)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asked, _ = listening.accept()
                    threading.Thread(target=_answer, args=(asked, fork_server), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _answer(asked: socket.socket, fork_server: ForkServer) -> None:
    with asked:
        request, streams, _, _ = socket.recv_fds(asked, 262_144, 3)
        try:
            given = json.loads(request)
            stdin, stdout, stderr = streams
            process = fork_server.start(
                "cli",
                *given["arguments"],
                env=given["env"],
                cwd=given["cwd"],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
        finally:
            for stream in streams:
                os.close(stream)
        asked.send(str(process.wait(60)).encode())


class Host:
    """A machine as the pages know it: `/etc/breaker`, `/var/lib/breaker`, `breaker` and `redis-cli` on the path."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory = directory
        self.etc, self.state = directory / "etc", directory / "lib"
        self.configuration = self.etc / "breaker.toml"
        self.noted = directory / "noted"
        self.database_url = f"sqlite:///{self.state / 'audit.db'}"
        self.elsewhere: dict[str, str] = {
            "postgresql://owner@db.internal/breaker": self.database_url,
            "/var/lib/breaker": str(self.state),
            "/var/backups/breaker": str(directory / "backups"),
            "/etc/breaker": str(self.etc),
            "/opt/breaker": str(directory / "opt"),
        }
        for name in ("etc", "lib", "backups", "opt", "commands"):
            (directory / name).mkdir()
        self.noted.touch()
        self.configuration.write_text(
            f'redis_url = "{redis_url}"\nstate_dir = "{self.state}"\nenvironment = "paper"\n', encoding="utf-8"
        )
        commands = directory / "commands"
        for name in STOOD_IN_FOR:
            (commands / name).write_text(_NOTED.format(noted=self.noted), encoding="utf-8")
            (commands / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self.environment: dict[str, str] = {
            **kept,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory),
            "BREAKER_CONFIG": str(self.configuration),
        }

    @property
    def breaker(self) -> Path:
        return self.directory / "commands" / "breaker"

    def type(self, block: str, *, status: int = 0, **variables: str) -> str:
        """Run it in bash, up to the first line that fails, and return what it said; its status has to be that one."""
        for printed, here in self.elsewhere.items():
            block = block.replace(printed, here)
        done = subprocess.run(
            ["bash", "-ec", block],
            cwd=self.directory,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def append(self, toml: str) -> None:
        with self.configuration.open("a", encoding="utf-8") as file:
            file.write(toml)

    def restarted(self) -> set[str]:
        """What systemd was asked to restart, start or stop."""
        lines = self.noted.read_text(encoding="utf-8").splitlines()
        return {word for line in lines if line.startswith("systemctl ") for word in line.split()[2:]}


def shell_of(page: str) -> list[str]:
    """The blocks of shell of a how-to page, in their order."""
    return list(blocks(ROOT / "docs" / "how-to" / page, "bash"))


def with_redis_cli(host: Host, server: EmbeddedRedis) -> None:
    """The real one, led to the test's server."""
    found = shutil.which("redis-cli")
    if found is None:
        if "BREAKER_REQUIRE_REDIS_CLI" in os.environ:
            pytest.fail("there is no redis-cli")
        pytest.skip("there is no redis-cli")
    client = host.directory / "commands" / "redis-cli"
    client.write_text(f'#!/bin/sh\nexec {found} -p {server.port} "$@"\n', encoding="utf-8")
    client.chmod(0o755)
