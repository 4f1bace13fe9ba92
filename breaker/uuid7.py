"""Make time-ordered ids for events and incidents: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> str:
    """A new UUIDv7 as text: 48 bits of Unix milliseconds, the rest random."""
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (2**48 - 1)) << 80 | noise
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))
