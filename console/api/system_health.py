"""Serve `/health`: what System Health shows."""

from __future__ import annotations

from fastapi import APIRouter, Request

from console.api.models import Health, MeasurementBody
from console.api.parameters import Viewer, problems
from console.request import context_of
from tasks.checks.measurement import worst

OLDEST = 10.0
"""Seconds after which a sample is not answered any more."""

router = APIRouter(tags=["health"])


@router.get("/health", responses=problems(), summary="System health (VIEW_CIRCUIT)")
async def get_health(request: Request, _: Viewer) -> Health:
    """Measured at most 10 seconds ago."""
    health = context_of(request).live.health
    sample = health.watch()
    if sample is None or sample.age > OLDEST:
        sample = await health.sample()
    measurements = [MeasurementBody(**measured.as_dict()) for measured in sample.value]
    return Health.model_validate({"colour": worst(sample.value), "measurements": measurements})
