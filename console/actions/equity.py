"""Tell the rules of money moved in or out of an account, for people and programs, by the rules of the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from breaker.rule_requests import checked_text
from breaker.rules import Outcome, Verdict
from breaker.uuid7 import uuid7
from configuration.reasons import checked_reason
from configuration.settings import Settings
from console.actions.authorization import Authorization, Caller
from console.actions.trip_reset import TripReset
from console.auth.permissions import Permission
from tasks.recovery.transfer import TransferRequest, checked_amount, checked_moment, named_by_hand, record_transfer

BEYOND = frozenset({Verdict.TRIPPED, Verdict.ALREADY_TRIPPED})
"""What the newest equity is by a transfer that shows it to be a loss."""


class EquityTransfers:
    """`changed` is called after each, which may have tripped."""

    def __init__(
        self, settings: Settings, authorization: Authorization, trip_reset: TripReset, changed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._authorization = authorization
        self._trip_reset = trip_reset
        self._changed = changed

    def request(
        self,
        caller: Caller,
        scope: str,
        amount: str,
        reason: str,
        at: datetime | None = None,
        transfer_id: str = "",
        event_id: str | None = None,
    ) -> TransferRequest:
        """What is asked for, checked. Of the same `event_id` it counts once. Raises InvalidInput."""
        return TransferRequest(
            scope=scope,
            person=caller.user,
            permissions=caller.identity.permissions,
            reason=checked_reason(reason),
            source=caller.source,
            ip_address=caller.address,
            amount=checked_amount(amount.strip()),
            at=datetime.now(UTC) if at is None else checked_moment(at, "the time"),
            transfer_id=checked_text(transfer_id.strip())
            if transfer_id.strip()
            else named_by_hand(event_id or uuid7()),
        )

    async def tell(self, caller: Caller, request: TransferRequest) -> Outcome:
        """Raises Denied while the database can't confirm the caller, and what `record_transfer` raises."""
        if not caller.identity.confirmed:
            await self._authorization.require(caller, Permission.RESET_CIRCUIT)
        breaker = self._trip_reset.breaker(request.scope, caller.source)
        try:
            return await record_transfer(self._settings, breaker, request, self._authorization.keep)
        finally:
            self._changed()
