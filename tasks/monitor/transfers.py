"""Tell the rules once of each transfer that a venue lists, so that money in and out is neither a gain nor a loss.

What was listed when an account was first looked at is in its equity since before the first reading, and is not told.
`circuit_breaker:monitor_transfers:{account}` is a sorted set of the ids that are known, by when they were booked. It is
read each time: what a failover has lost of it the rules have lost too, and are told again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from breaker.deadline_client import AsyncDeadlineClient
from breaker.requests import Request, raise_if_error
from brokers.protocol import Listed, Transfer

LOOK_BACK = timedelta(days=3)
"""How far back the venue is asked each time: it may list what it has booked days later."""
_REMEMBERED = timedelta(days=14)
_BEGUN = "begun"
"""Stands beside the ids, so that an account that never had a transfer is known to be looked at."""


def transfers_key(account: str) -> str:
    return f"circuit_breaker:monitor_transfers:{account}"


class KnownTransfers:
    """The transfers of one account that the rules have been told of, as Redis keeps them."""

    def __init__(self, client: AsyncDeadlineClient, account: str) -> None:
        self._client = client
        self._key = transfers_key(account)

    async def news(self, listed: Listed[Transfer]) -> list[Transfer]:
        """Those that are not known yet; what can't be read is left out. Raises what Redis's does."""
        known = await self._read(listed)
        if not known:
            await self.add(listed)
            return []
        return [transfer for transfer in listed if transfer.id not in known]

    async def add(self, told: Iterable[Transfer]) -> None:
        """They are known from now on. Raises what Redis's does."""
        members = {_BEGUN: "+inf", **{each.id: f"{each.at.timestamp():.3f}" for each in told}}
        words = [word for member, score in members.items() for word in (score, member)]
        forgotten = (datetime.now(UTC) - _REMEMBERED).timestamp()
        request = Request(
            f"keep {self._key}",
            (("ZADD", self._key, *words), ("ZREMRANGEBYSCORE", self._key, "-inf", f"({forgotten:.3f}")),
        )
        for reply in await self._client.execute(request):
            raise_if_error(reply)

    async def _read(self, listed: Iterable[Transfer]) -> set[str]:
        """What is known of these, and that the account is looked at. A venue may date one anew, as when it settles."""
        oldest = min((each.at for each in listed), default=datetime.now(UTC)) - LOOK_BACK
        request = Request(f"read {self._key}", (("ZRANGEBYSCORE", self._key, f"{oldest.timestamp():.3f}", "+inf"),))
        (members,) = await self._client.execute(request)
        raise_if_error(members)
        return {member.decode("utf-8", "replace") for member in members}
