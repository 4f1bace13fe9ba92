"""Tell the rules of money moved in or out of an account, for a person and on record, where no venue tells it.

A transfer moves what a drawdown is judged from, as a re-base does: whoever may do the one may do the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from breaker.errors import BreakerError, InvalidInput
from breaker.rules import Outcome, Verdict
from configuration.breakers import async_rules_of
from configuration.settings import Settings
from ledger.record import DENIED, AuditRecord
from tasks.recovery.rebase import EquityChange, EquityChangeRefused, change_row, check_change, incident_of

if TYPE_CHECKING:
    from breaker import AsyncCircuitBreaker

LEAST, MOST = Decimal("0.01"), Decimal(10) ** 15
"""In any currency; what is beyond was mistyped, and a high-water mark that high trips at once."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TRANSFERRED = "EQUITY_TRANSFERRED"
TRANSFER_REFUSED = "EQUITY_TRANSFER_REFUSED"


class NotTransferred(BreakerError):
    """The rules can't take it any more. On record; nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest(EquityChange):
    """`amount` in the account's currency, negative for what left it; each `transfer_id` counts once."""

    amount: Decimal
    at: datetime
    transfer_id: str


def checked_amount(text: str) -> Decimal:
    """Raises InvalidInput for what can't be moved."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or not LEAST <= abs(value) <= MOST:
        raise InvalidInput(
            f"{text!r:.60} is no amount: it has to be a number of {LEAST:f} to {MOST:f}, with a minus for what left; "
            "nothing changed"
        )
    return value


def checked_moment(at: datetime, called: str) -> datetime:
    """In UTC. Raises InvalidInput for what is before any account; `called` is how whoever gave it knows it."""
    try:
        when = at.astimezone(UTC)
    except OverflowError:
        when = _EPOCH
    if when <= _EPOCH:
        raise InvalidInput(f"{called} {at.isoformat()} is no time at which money was moved; nothing changed")
    return when


def named_by_hand(event_id: str) -> str:
    """The id of a transfer that has none of a bank's or venue's."""
    return f"by hand {event_id}"


async def record_transfer(
    settings: Settings,
    breaker: AsyncCircuitBreaker,
    request: TransferRequest,
    record: Callable[[AuditRecord], Awaitable[None]],
) -> Outcome:
    """Tell the rules of it, if those of a reset allow that.

    Returns:
        What came of it: WITHIN with its `effect`, or what the newest equity is judged to be by it.

    Raises:
        EquityChangeRefused: they don't. NotTransferred: it is too old to be told. Both are on record, in one row.
        InvalidInput: nothing names the scope, and nothing was ever judged by it.
        BreakerUnavailable, RedisRefused: Redis can't be asked.
    """
    status = await breaker.get_status()
    incident = incident_of(status)
    told = {
        "amount": f"{request.amount:f}",
        "moved_at": request.at.astimezone(UTC).isoformat(),
        "transfer_id": request.transfer_id,
    }
    try:
        await check_change(settings, status, request, "Not recorded")
        outcome = await _tell(settings, request)
    except (EquityChangeRefused, NotTransferred) as error:
        await record(change_row(TRANSFER_REFUSED, request, incident, {**told, "refused": str(error)}, DENIED))
        raise
    came = outcome.details.get("effect", f"{outcome.verdict}, equity {outcome.details.get('equity')}")
    await record(change_row(TRANSFERRED, request, incident, {**told, "effect": came}))
    return outcome


async def _tell(settings: Settings, request: TransferRequest) -> Outcome:
    rules = async_rules_of(settings, request.scope)
    try:
        outcome = await rules.record_transfer(request.amount, request.at, request.transfer_id)
    finally:
        await rules.close()
    if outcome.verdict is Verdict.REFUSED:
        raise NotTransferred(f"Not recorded: {outcome.details['problem']}. The marks of {request.scope} are as before.")
    return outcome
