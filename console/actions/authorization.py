"""Check what callers may do, and keep on record what they did and what they were denied."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from breaker import BreakerError
from configuration.reasons import MIN_REASON, halt_reason
from console.auth.permissions import Identity, Permission
from ledger.errors import LedgerError
from ledger.record import DENIED, OK, AuditRecord
from ledger.recorder import Recorder

_log = logging.getLogger(__name__)


class Denied(BreakerError):
    """Whoever asks lacks the permission. On record; nothing else changed."""

    def __init__(self, identity: Identity, permission: Permission) -> None:
        super().__init__(
            f"This needs the permission {permission}, which {identity.user} ({identity.role}) doesn't have; nothing "
            f"changed. An admin can change the role: `breaker user role {identity.user} ROLE`."
            if identity.confirmed
            else f"This needs the permission {permission}, which can't be confirmed while the database is away; "
            "nothing changed. Halting works."
        )
        self.permission = permission


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, from where (an address), and by which way in: `console` or `api`."""

    identity: Identity
    address: str | None
    source: str

    @property
    def user(self) -> str:
        return self.identity.user

    @property
    def shortest_reason(self) -> int:
        """Characters of a reason to halt: pages keep people to the runbook's; no command fails for a short one."""
        return MIN_REASON if self.source == "console" else 1


class Authorization:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def require(self, caller: Caller, permission: Permission) -> None:
        """Raises Denied, which is on record by then."""
        if caller.identity.may(permission):
            return
        await self.record(caller, "PERMISSION_DENIED", {"permission": permission}, outcome=DENIED)
        raise Denied(caller.identity, permission)

    def reason_of_halt(self, caller: Caller, reason: str) -> str:
        """The reason as it is kept; what had to be changed in it is logged. Raises InvalidInput: a page's is short."""
        fit = halt_reason(reason, caller.shortest_reason)
        if fit.changed:
            _log.warning("%s halts by %s: %s", caller.user, caller.source, fit.changed)
        return fit.text

    async def record(
        self,
        caller: Caller,
        action: str,
        details: Mapping[str, Any],
        *,
        outcome: str = OK,
        scope: str = "global",
        incident_id: str | None = None,
    ) -> None:
        """Keep that somebody did something."""
        await self.keep(
            AuditRecord(
                action=action,
                source=caller.source,
                user_id=caller.user,
                details=details,
                ip_address=caller.address,
                outcome=outcome,
                scope=scope,
                incident_id=incident_id,
            )
        )

    async def keep(self, record: AuditRecord) -> None:
        """Keep it in the ledger, or in the spool. Where neither takes it, it is in the log."""
        try:
            await asyncio.to_thread(self._recorder.record, record)
        except LedgerError as error:
            _log.error("not recorded: %s", error)
