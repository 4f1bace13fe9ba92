"""Keep what was measured of each account in Redis, bounded in time, each measurement once and by the holder alone.

`circuit_breaker:measurements:{account}` is a stream. An entry's id begins with the Unix milliseconds at which the venue
worked the figures out, or else of Redis's clock, so that one that is known already, or older, is not taken. What is in
the future by Redis's clock is moved to `circuit_breaker:measurements:{account}:aside:{milliseconds}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.deadline_client import AsyncDeadlineClient
from breaker.redis_time import to_microseconds
from breaker.requests import Request, raise_if_error, script_request, standalone_script
from tasks.monitor.leases import Holder, lease_key, lease_of_account
from tasks.monitor.transfer_time import KnownEquity

_KEEP = standalone_script("""\
#!lua flags=allow-oom
-- KEYS[1]: the lease, [2]: the stream. ARGV[1]: the holder, [2]: Unix milliseconds of the venue's figures or '',
-- [3]: milliseconds for which entries are kept, [4]: by how many a clock may be ahead, [5…]: fields and values.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'LOST' end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.ceil(tonumber(clock[2]) / 1000) -- after all that happened before
local at = ARGV[2] == '' and now or tonumber(ARGV[2])
if at > now + tonumber(ARGV[4]) then at = now end -- a clock of the venue's that is wrong hides no loss
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local newest_at = newest and tonumber(string.match(newest[1], '^%d+'))
if newest_at and newest_at > now + tonumber(ARGV[4]) then
  -- After a failover to a host whose clock is behind, all that is measured would be known already until then.
  local aside = KEYS[2] .. ':aside:' .. string.format('%.0f', now)
  redis.call('RENAME', KEYS[2], aside)
  redis.call('PEXPIRE', aside, ARGV[3])
  newest_at = nil
end
if newest_at and newest_at >= at then return 'KNOWN' end
local fields = {}
for place = 5, #ARGV do fields[place - 4] = ARGV[place] end
local oldest = string.format('%.0f', math.max(now - tonumber(ARGV[3]), 0))
return redis.call('XADD', KEYS[2], 'MINID', '~', oldest, string.format('%.0f-0', at), unpack(fields))
""")


_PAGE = 1_000
"""Entries that are read at once."""
_AHEAD = 5_000
"""Milliseconds by which another host's clock may be ahead of Redis's, as the rules have it."""


def measurements_key(account: str) -> str:
    return f"circuit_breaker:measurements:{account}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a venue said of one account at one moment. Money is in `currency`."""

    equity: Decimal
    currency: str
    positions: int | None = None
    """How many there are, unreadable ones too; None, as for all that follow, where the venue didn't tell."""
    gross_exposure: Decimal | None = None
    """The sum of what all readable positions are worth, each without its sign."""
    largest_position: Decimal | None = None
    """What the largest of them is worth."""
    initial_margin: Decimal | None = None
    maintenance_margin: Decimal | None = None
    as_of: datetime | None = None
    """When the venue worked it out; None where it doesn't say."""
    untrusted: str = ""
    """Why the venue says that the equity is not to be relied on."""

    def as_fields(self) -> dict[str, str]:
        """What is kept of it: plain digits, and nothing for what is not known."""
        known = {
            "equity": self.equity,
            "gross_exposure": self.gross_exposure,
            "largest_position": self.largest_position,
            "initial_margin": self.initial_margin,
            "maintenance_margin": self.maintenance_margin,
        }
        told = {name: f"{value:f}" for name, value in known.items() if value is not None}
        counted = {} if self.positions is None else {"positions": str(self.positions)}
        doubt = {"untrusted": self.untrusted} if self.untrusted else {}
        return {**told, "currency": self.currency, **counted, **doubt}


@dataclass(frozen=True, slots=True)
class Kept:
    """A measurement as it is kept: nobody else has kept the same one, so it may be judged."""

    id: str
    """The stream's."""

    @property
    def at(self) -> datetime:
        """When it was measured."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)


class Measurements:
    """What one holder keeps. `keep`: for how long."""

    def __init__(self, client: AsyncDeadlineClient, holder: Holder, keep: timedelta) -> None:
        self._client = client
        self._holder = holder
        self._keep = round(keep.total_seconds() * 1000)

    async def keep(self, account: str, reading: Reading) -> Kept | None:
        """Keep it; None where another process holds the account by now, or the same figures are kept already.

        Raises what Redis's does: it may have been kept then, and is not to be judged.
        """
        at = "" if reading.as_of is None else str(to_microseconds(reading.as_of) // 1000)
        fields = [text for pair in reading.as_fields().items() for text in pair]
        request = script_request(
            _KEEP,
            (lease_key(lease_of_account(account)), measurements_key(account)),
            (self._holder.as_stored(), at, self._keep, _AHEAD, *fields),
            purpose=f"keep a measurement of {account}",
        )
        (reply,) = await self._client.execute(request)
        raise_if_error(reply)
        answer = reply.decode()
        return None if answer in ("LOST", "KNOWN") else Kept(answer)

    async def newest(self, account: str) -> datetime | None:
        """When the account was last measured, by whoever did; None where nothing is kept. Raises what Redis's does."""
        key = measurements_key(account)
        (entries,) = await self._client.execute(Request(f"read {key}", (("XREVRANGE", key, "+", "-", "COUNT", 1),)))
        raise_if_error(entries)
        return read_measurement(entries[0])[0] if entries else None

    async def equities(self, account: str, since: datetime, currency: str) -> list[KnownEquity]:
        """What was measured from the last reading before `since` on, oldest first, in that currency and trusted.

        Raises what Redis's does.
        """
        key, begin = measurements_key(account), round(since.timestamp() * 1000)
        request = Request(f"read {key}", (("XREVRANGE", key, begin - 1, "-", "COUNT", 1),))
        (entries,) = await self._client.execute(request)
        raise_if_error(entries)
        found, begin_id = list(entries), str(begin)
        while True:
            (page,) = await self._client.execute(
                Request(f"read {key}", (("XRANGE", key, begin_id, "+", "COUNT", _PAGE),))
            )
            raise_if_error(page)
            found += page
            if len(page) < _PAGE:
                break
            begin_id = f"({page[-1][0].decode()}"
        return [each for entry in found for each in _equity_of(entry, currency)]


def _equity_of(entry: Any, currency: str) -> Iterator[KnownEquity]:
    """One entry of the stream; nothing for what is not to be compared, and for what is none."""
    at, fields = read_measurement(entry)
    if "untrusted" in fields or fields.get("currency", currency) != currency:
        return
    try:
        equity = Decimal(fields["equity"])
    except (KeyError, InvalidOperation):
        return
    if equity.is_finite():
        yield KnownEquity(at, equity)


def read_measurement(entry: Any) -> tuple[datetime, Mapping[str, str]]:
    """One entry of the stream as redis-py, or Redis itself, gives it: when it was measured, and its fields."""
    entry_id, fields = entry
    pairs = fields.items() if isinstance(fields, Mapping) else zip(fields[::2], fields[1::2], strict=True)
    return Kept(entry_id.decode()).at, {name.decode(): value.decode() for name, value in pairs}
