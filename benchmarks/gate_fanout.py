"""From the acknowledgement of a trip to the refusal in gates of other processes, idle and with a busy interpreter."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.rows import Row, quantile, spread
from benchmarks.servers import BACKENDS, Bench, bench, sidecar
from breaker.gate import clock

_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "150"))
_PER_PROCESS = 10


def run() -> list[Row]:
    with bench() as here, sidecar(here.server.url, here.shared_memory):
        rows = [_one_gate(here, backend, load) for load in ("idle", "busy") for backend in BACKENDS]
        return rows + [_fleet(here, gates) for gates in (10, 100)]


def _one_gate(here: Bench, backend: str, load: str) -> Row:
    delays = _delays(here, backend, load, gates=1)
    if load == "busy" and backend == "thread":
        return _row(f"1 gate, {backend}, {load}", delays)
    met = quantile(delays, 0.99) <= 1.5e-3
    return _row(f"1 gate, {backend}, {load}", delays, target="p99 ≤ 1.5 ms", met=met)


def _fleet(here: Bench, gates: int) -> Row:
    needed = quantile(_delays(here, "raw", "idle", gates), 0.99)
    delays = _delays(here, "thread", "idle", gates)
    met = quantile(delays, 0.99) - needed <= 5e-3
    beside = f"raw sockets p99 {needed * 1e3:.2f} ms"
    return _row(f"{gates} gates, thread, idle", delays, beside, "p99 ≤ 5 ms beyond", met)


def _row(what: str, delays: list[float], baseline: str = "", target: str = "", met: bool | None = None) -> Row:
    return Row("trip → refusal", f"{what}, p50 / p99 / max", spread(delays, 1e3), "ms", baseline, target, met)


def _delays(here: Bench, backend: str, load: str, gates: int) -> list[float]:
    """Seconds from the writer's return to each gate's refusal, in every round."""
    per_process = 1 if gates == 1 else _PER_PROCESS
    rounds = max(20, _ROUNDS // per_process)
    delays: list[float] = []
    with _workers(here, backend, load, gates // per_process, per_process) as workers:
        for _ in range(rounds):
            for worker in workers:
                _say(worker)
            for worker in workers:
                _hear(worker)
            time.sleep(random.uniform(0.02, 0.07))
            here.breaker.trip("BENCH")
            acknowledged = clock.now()
            for worker in workers:
                delays += [float(at) - acknowledged for at in _hear(worker).split()]
            here.breaker.reset(reset_by="bench")
    return delays


@contextlib.contextmanager
def _workers(here: Bench, backend: str, load: str, processes: int, gates: int) -> Iterator[list[subprocess.Popen[str]]]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gate_worker",
        here.server.url,
        str(here.shared_memory),
        backend,
        load,
        str(gates),
    ]
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(processes):
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(worker.wait, 5)
            stack.callback(worker.kill)
            started.append(worker)
        yield started


def _say(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def _hear(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError("a worker of the fan-out benchmark has ended early")
    return line
