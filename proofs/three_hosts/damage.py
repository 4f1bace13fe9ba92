"""Inflict a loss on the topology: find what it is to hit at this moment, and hit it."""

from __future__ import annotations

import signal
from typing import Final

from proofs.three_hosts.host import Host
from proofs.three_hosts.losses import HOSTS, Loss, Way
from proofs.three_hosts.network import send
from proofs.three_hosts.topology import Topology

_SIGNALS: Final = {Way.KILLED: signal.SIGKILL, Way.STOPPED: signal.SIGSTOP}
_AT_HOST_A: Final = {"PostgreSQL's primary": "postgres", "Prefect's server": "prefect"}


def inflict(topology: Topology, loss: Loss, *, kills_on: str = "host-c", flow_run_id: str = "") -> str:
    """Returns where that was. `kills_on`: where a person's kill runs; `flow_run_id`: of the recovery under way."""
    if loss.what in HOSTS:
        host = topology.hosts[loss.what.lower().replace(" ", "-")]
        {Way.KILLED: host.kill_all, Way.STOPPED: host.freeze_all, Way.CUT: host.machine.pull_plug}[loss.way]()
        return host.name
    host, name = _service(topology, loss.what, kills_on, flow_run_id)
    send(_SIGNALS[loss.way], host.services[name].pids())
    if loss.way is Way.KILLED:
        host.services[name].wait_for_end()
    return host.name


def _service(topology: Topology, what: str, kills_on: str, flow_run_id: str) -> tuple[Host, str]:
    if what == "Redis's primary":
        return topology.host_of_primary(), "redis"
    if what == "a Sentinel":
        return topology.host_of_primary(), "sentinel"
    if what in _AT_HOST_A:
        return topology.a, _AT_HOST_A[what]
    if what == "the worker":
        return topology.host_of_run(flow_run_id) or topology.hosts["host-b"], "worker"
    if what == "services":
        return topology.host_that_watches() or topology.a, "services"
    return topology.hosts[kills_on], "standby"
