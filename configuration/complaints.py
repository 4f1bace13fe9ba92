"""Say in one line what is wrong with a configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError


def describe_complaints(error: ValidationError, file: Path) -> str:
    """Every complaint with its key; the offending values are left out, since they may be secrets."""
    items = error.errors(include_input=False, include_url=False, include_context=False)
    own = [item for item in items if item["type"] != "default_factory_not_called"]  # only the echo of another one
    complaints = "; ".join(_complaint(item["loc"], item["msg"]) for item in own)
    return (
        f"configuration ({file} and BREAKER_* variables): {complaints}; nothing was changed, correct it and try again"
    )


def _complaint(key: tuple[int | str, ...], message: str) -> str:
    said = message.removeprefix("Value error, ").rstrip(".")
    return f"{'.'.join(str(part) for part in key)}: {said}" if key else said
