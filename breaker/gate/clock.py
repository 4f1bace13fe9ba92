"""Read the clock that leases run on: seconds since boot, suspension included, the same in every process of a host.

The wall clock is set by people and by NTP, and Linux's CLOCK_MONOTONIC stands still while a laptop sleeps; a lease on
either could be made to last. On macOS it is CLOCK_MONOTONIC that goes on while the machine sleeps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

now: Callable[[], float] = functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
