"""Name the kinds of values that several sections of the configuration take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Seconds = Annotated[float, Field(gt=0, le=86_400)]
"""More than nothing, at most a day."""
