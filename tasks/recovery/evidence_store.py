"""Keep an incident's evidence in Redis, where console and command line find it before the root cause is asked for."""

from __future__ import annotations

from redis.asyncio import Redis

KEPT = 30 * 86_400
"""Seconds, from when it was gathered last; the incident report has it for ever."""
MOST = 500_000
"""Characters; the logs of many services could fill a Redis that has better things to hold."""


def evidence_key(incident_id: str) -> str:
    return f"circuit_breaker:recovery_evidence:{incident_id}"


async def keep_evidence(redis: Redis, incident_id: str, markdown: str) -> None:
    """In place of what an earlier round gathered. `markdown` is free of secrets already."""
    if len(markdown) > MOST:
        markdown = f"{markdown[:MOST]}\n\n[cut here after {MOST} characters; the incident report has all of it]\n"
    await redis.set(evidence_key(incident_id), markdown.encode(errors="replace"), ex=KEPT)


async def read_evidence(redis: Redis, incident_id: str) -> str | None:
    """Markdown, or None if none is kept. Log lines may hold what a terminal obeys: such characters are replaced."""
    raw = await redis.get(evidence_key(incident_id))
    if raw is None:
        return None
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
