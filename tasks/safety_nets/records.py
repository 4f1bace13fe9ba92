"""Keep in Redis where each account's timer stands, and what people want of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from breaker.requests import Request, script_request, standalone_script
from breaker.uuid7 import uuid7
from tasks.monitor.leases import Holder
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.holding import lease_key

KEY = "circuit_breaker:safety_nets"
"""A hash: of each account the record of whoever holds its lease, as JSON."""
INSTRUCTIONS = "circuit_breaker:safety_net_instructions"
"""A hash: of each account what a person wants, as JSON."""
STALE_AFTER = 20.0
"""Seconds after which nobody keeps what a record speaks of."""

_KEEP = standalone_script("""\
#!lua flags=allow-oom
-- KEYS: the lease, the hash of records. ARGV: the holder, the account, its record.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetRecord:
    """Where one account's timer stands, by whoever keeps it. Times are Unix seconds of Redis's clock."""

    account: str
    standing: Standing
    timeout: float
    as_of: float
    seconds_left: float | None = None
    """Until it fires unless it is renewed, at `as_of` and at least; None where it does not run."""
    renewed_at: float | None = None
    verified: bool = False
    """The venue's own answer said that it runs."""
    fired_at: float | None = None
    """When it last fired, or was found to have."""
    firings: int = 0
    covers: tuple[str, ...] = ()
    not_covered: str = ""
    why: str = ""
    """Why it is not simply renewed."""
    problem: str = ""
    """What the last attempt came to, where it came to nothing."""
    host: str = ""
    instruction: str = ""
    """The id of the person's instruction that it goes by."""

    @property
    def armed_until(self) -> float | None:
        return None if self.seconds_left is None else self.as_of + self.seconds_left

    def is_kept(self, now: float) -> bool:
        """Whether anybody keeps it still."""
        return now - self.as_of <= STALE_AFTER

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Raises ValueError, TypeError."""
        fields = json.loads(raw)
        record = cls(**fields)
        return replace(record, standing=Standing(record.standing), covers=tuple(record.covers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What a person wants of one account's timer. `at`: Unix seconds of Redis's clock."""

    armed: bool
    by: str
    reason: str
    at: float
    id: str = field(default_factory=uuid7)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Raises ValueError, TypeError."""
        return cls(**json.loads(raw))


def read_records(raw: Mapping[bytes, bytes]) -> dict[str, NetRecord]:
    """Of a reply to HGETALL, by account; what another version has written is left out."""
    return _readable(raw, NetRecord.from_json)


def read_instructions(raw: Mapping[bytes, bytes]) -> dict[str, Instruction]:
    """Of a reply to HGETALL, by account."""
    return _readable(raw, Instruction.from_json)


def keep_request(record: NetRecord, holder: Holder) -> Request:
    """Keep a record, unless another process holds the account by now: the reply is 0 then."""
    keys = (lease_key(record.account), KEY)
    arguments = (holder.as_stored(), record.account, record.as_json())
    return script_request(_KEEP, keys, arguments, purpose=f"keep where the safety net of {record.account} stands")


def moment(unix: float | None) -> datetime | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC)


def _readable(raw: Mapping[bytes, bytes], read: Any) -> dict[str, Any]:
    found = {}
    for name, value in raw.items():
        with suppress(ValueError, TypeError):
            found[name.decode()] = read(value)
    return found


def pairs(reply: Any) -> dict[bytes, bytes]:
    """A reply to HGETALL in RESP2, as a mapping."""
    return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else {}
