"""Ask Redis, right after a trip, whether the trip would outlive a crash of Redis itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from breaker.errors import InvalidInput

LOCAL, AOF, REPLICAS = "local", "aof", "replicas"
MAX_WAIT = 0.5
"""Seconds that confirming may take; the trip itself is in force before that begins."""


@dataclass(frozen=True, slots=True)
class Durability:
    """How far a trip must have got to be called durable.

    Attributes:
        kind: `local`: Redis has it in memory, and keeps it as its own configuration says; nothing is asked. `aof`: it
            is on Redis's disk (WAITAOF, Redis 7.2 or Valkey; needs `appendonly yes`). `replicas`: so many replicas
            have it in memory (WAIT).
        replicas: How many, for `replicas`.

    Raises:
        InvalidInput: another word, or fewer than one replica.

    Example:
        >>> from breaker import Durability
        >>> careful = CircuitBreaker(client, durability=Durability("replicas", 1))
        >>> careful.trip("MANUAL").unconfirmed
        '0 of 1 replicas had it in time.'
    """

    kind: str = LOCAL
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.kind not in (LOCAL, AOF, REPLICAS):
            raise InvalidInput(f"durability is {self.kind!r:.40}; use {LOCAL}, {AOF} or {REPLICAS}.")
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int) or self.replicas < 1:
            raise InvalidInput(f"replicas is {self.replicas!r:.40}; use a whole number from 1 on.")

    def wait_command(self, attempt: float) -> tuple[tuple[str | bytes | int, ...], ...]:
        """The command to send after the trip, on the same connection.

        Args:
            attempt: Seconds that the trip has got on that connection, of which this takes half at most: a trip that is
                tried once more, as after a failover, has fewer than the first time.

        Returns:
            One command, or none for `local`.
        """
        wait = max(round(min(attempt / 2, MAX_WAIT) * 1000), 1)  # 0 would be for ever
        if self.kind == AOF:
            return (("WAITAOF", 1, 0, wait),)
        if self.kind == REPLICAS:
            return (("WAIT", self.replicas, wait),)
        return ()

    def why_unconfirmed(self, outcome: Any, answer: Sequence[Any]) -> str | None:
        """Why the trip is not known to be durable.

        Args:
            outcome: The script's first word. What was REPEATED was written by another connection, so that Redis's
                answer on this one says nothing about it.
            answer: The replies to `wait_command`.

        Returns:
            A sentence; None when the trip is durable, or when nothing was asked.
        """
        if self.kind == LOCAL:
            return None
        if outcome != b"DONE":
            return "It had been made before, so whether it is durable could not be asked."
        if isinstance(answer[0], Exception):
            return f"Redis would not say whether it is durable: {' '.join(str(answer[0]).split())}."
        if self.kind == AOF:
            return None if answer[0][0] >= 1 else "Redis had not written it to its disk in time."
        return None if answer[0] >= self.replicas else f"{answer[0]} of {self.replicas} replicas had it in time."


DEFAULT_DURABILITY = Durability()
"""Redis has it in memory; nothing more is asked."""
