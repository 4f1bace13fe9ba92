"""Listen for all gates of a host in one process: `python -m breaker.gate.sidecar --redis URL`.

It writes what it knows to a file in shared memory (`breaker.gate.shared_memory`), which gates of the `shm` backend
read. Run it under a supervisor that starts it again; while it is away, every such gate closes within `--max-staleness`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from breaker.errors import InvalidInput
from breaker.gate.lease import Lease, ScopeView
from breaker.gate.listener import make_listener
from breaker.gate.report_relay import ReportRelay
from breaker.gate.reporter import redis_sender
from breaker.gate.shared_memory import SharedMemoryInUse, SharedMemoryWriter
from breaker.gate.staleness_watch import StalenessWatch
from breaker.gate.state_source import DEFAULT_SHARED_MEMORY
from breaker.gate.topology import default_topology
from breaker.keys import GLOBAL, check_scope
from breaker.redis_clients import open_redis
from breaker.rules import Limits, Rules

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 then, 2 when it can't start."""
    options = _options().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    scopes = tuple(dict.fromkeys((GLOBAL, *options.scope)))
    for scope in scopes:
        check_scope(scope)
    try:
        replicas = default_topology(options.redis).replicas if options.replicas is None else options.replicas
        shared_memory = SharedMemoryWriter(options.shared_memory, options.max_staleness)
    except (SharedMemoryInUse, InvalidInput, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    lease = Lease(options.max_staleness, tuple(ScopeView(scope) for scope in scopes), replicas)
    listener = make_listener(
        options.redis,
        lease,
        shared_memory.write,
        heartbeat=options.max_staleness / 4,
        drain=False,
        pending_trips=options.pending_trips,
        compared_only=options.compared,
    )
    # Blocked in every thread and waited for: a handler would have to wait for the main thread to wake.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    listener.start()
    relay = ReportRelay(options.shared_memory, redis_sender(options.redis), compared=options.compared)
    relay.start()
    watches = _watches(options)
    for watch in watches:
        watch.start()
    signal.sigwait(_STOP_SIGNALS)
    for watch in watches:
        watch.stop()
    relay.stop()
    listener.stop()
    shared_memory.close()
    return 0


def _watches(options: argparse.Namespace) -> list[StalenessWatch]:
    if not options.feed:
        return []
    rules = Rules(open_redis(options.redis), limits=Limits(data_age=options.data_age))
    return [StalenessWatch(rules, options.feed, every=5.0)]


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m breaker.gate.sidecar", description=(__doc__ or "").split("\n")[0])
    options.add_argument(
        "--redis",
        default=os.environ.get("BREAKER_REDIS_URL", "redis://localhost:6379/0"),
        help="URL of the breaker's Redis, or redis+sentinel://A,B/MASTER/DATABASE; "
        "BREAKER_REDIS_URL unless given (credentials then stay out of `ps`)",
    )
    options.add_argument(
        "--shared-memory", type=Path, default=DEFAULT_SHARED_MEMORY, help="file in shared memory to write"
    )
    options.add_argument(
        "--pending-trips",
        type=Path,
        help="directory of trips that wait on this host, to be made before any gate opens; usually "
        "STATE_DIR/pending_trips",
    )
    options.add_argument("--scope", action="append", default=[], help="watch this scope too; may be given repeatedly")
    options.add_argument("--max-staleness", type=float, default=0.2, help="seconds; gates that demand less stay closed")
    options.add_argument(
        "--replicas",
        type=int,
        help="replicas that can be promoted, each to confirm heartbeats; 0 unless given, and 1 under Sentinel",
    )
    options.add_argument(
        "--compared",
        action="store_true",
        help="open only on a Redis that `services.serve` or `breaker services` has compared with the ledger",
    )
    options.add_argument(
        "--feed", action="append", default=[], help="trip when this feed's data is too old; repeatable"
    )
    options.add_argument("--data-age", type=float, default=1800.0, help="seconds after which data is too old")
    return options


if __name__ == "__main__":
    sys.exit(main())
