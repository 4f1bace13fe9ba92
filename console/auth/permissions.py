"""Define who may do what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Permission(StrEnum):
    VIEW_CIRCUIT = "VIEW_CIRCUIT"
    TRIP_CIRCUIT = "TRIP_CIRCUIT"
    RESET_CIRCUIT = "RESET_CIRCUIT"
    KILL_SWITCH = "KILL_SWITCH"
    APPROVE_RECOVERY = "APPROVE_RECOVERY"
    VIEW_AUDIT = "VIEW_AUDIT"


class Role(StrEnum):
    """From the lowest to the highest."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    RISK_MANAGER = "risk_manager"
    ADMIN = "admin"


_P = Permission
_OPERATOR = frozenset({_P.VIEW_CIRCUIT, _P.TRIP_CIRCUIT, _P.KILL_SWITCH, _P.VIEW_AUDIT})

PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({_P.VIEW_CIRCUIT}),
    # Whoever is on call may always make things safer; letting risk back in is for somebody else to decide.
    Role.OPERATOR: _OPERATOR,
    Role.RISK_MANAGER: _OPERATOR | {_P.RESET_CIRCUIT, _P.APPROVE_RECOVERY},
    Role.ADMIN: frozenset(Permission),
}

WITHOUT_DATABASE = frozenset({_P.VIEW_CIRCUIT, _P.TRIP_CIRCUIT, _P.KILL_SWITCH})
"""What a session that is known already may do while the database can't confirm it: only what makes things safer."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who has signed in, or whose token it is, and what that lets them do."""

    user: str
    role: Role
    permissions: frozenset[Permission]
    csrf: str = ""
    """What forms of this session must carry; empty for a token."""
    session: str = ""
    """The session's name in the database; empty for a token."""
    confirmed: bool = True
    """False while the database is away and an earlier answer of it stands in."""

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions
