"""Say whether a resident process of this host gives signs of life: `python -m services.alive standby`.

For whatever watches over processes that have no port, such as a probe of Kubernetes. The exit status is 0 where one
does, and 1 where none does, or Redis can't be asked: then that process has nothing to work with either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from redis.exceptions import RedisError

from breaker.errors import BreakerError
from configuration.settings import load_settings
from tasks.checks.probe import describe_error
from tasks.running_services import GATEWAY, MONITOR, SERVE, STANDBY, WATCHES, alive_here


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status, after a line on standard error where it is 1."""
    parser = argparse.ArgumentParser(prog="services.alive", description="Whether such a process of this host is alive.")
    parser.add_argument("service", choices=(SERVE, STANDBY, WATCHES, MONITOR, GATEWAY))
    service: str = parser.parse_args(arguments).service
    try:
        if alive_here(load_settings(), service):
            return 0
    except (RedisError, OSError) as error:
        sys.stderr.write(f"alive: Redis did not say whether {service} runs here: {describe_error(error)}\n")
    except BreakerError as error:
        sys.stderr.write(f"alive: {error}\n")
    else:
        sys.stderr.write(f"alive: {service} on this host has given no sign of life just now\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
