"""Serve every deployment in one process, without a work pool: kill, resume, recovery, verification, drill.

`python -m services.serve`. A trip from any place starts its recovery: the trip watch in here announces it, and the
recovery's deployment is triggered by that event. A reset from any place is watched, here unless its recovery does.
People are told of either from here, unless whoever made it has told them.
"""

from __future__ import annotations

import asyncio
import os
import sys

import httpx
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.settings import PREFECT_RUNNER_POLL_FREQUENCY, temporary_settings
from prefect.types.entrypoint import EntrypointType

from breaker.errors import BreakerError
from configuration.running import RunningConfiguration
from configuration.settings import Settings, load_settings
from flows.drill import drill
from flows.health_verification import health_verification
from flows.kill_share import kill_share
from flows.kill_switch import kill_switch
from flows.recovery import recovery
from flows.resume import resume
from flows.run_names import environment_tag
from services.watches import watching
from tasks import orchestrator
from tasks.running_services import SERVE, another_runs, reported
from tasks.trip_announcement import TRIPPED

VERIFY_EVERY = 60
"""Seconds between two scheduled verifications."""
LOOK_FOR_OTHERS_EVERY = 5.0
"""Seconds between two looks for other processes that serve the same."""


async def deployments() -> list[RunnerDeployment]:
    """What is served, with schedules, triggers and descriptions."""
    module = EntrypointType.MODULE_PATH
    settings = load_settings()
    environment = environment_tag(settings)
    return [
        await kill_switch.ato_deployment(
            "kill-switch",
            tags=["kill-switch", environment],
            description="Halt, cancel every open order, flatten every position, prove it. For emergencies.",
            entrypoint_type=module,
        ),
        await kill_share.ato_deployment(
            "kill-share",
            tags=["kill-switch", environment],
            description="A share of a kill switch's accounts, spread over workers. Started by the kill switch itself.",
            entrypoint_type=module,
        ),
        await recovery.ato_deployment(
            "recovery",
            tags=["recovery", environment],
            description="The runbook's recovery checklist. Started by a trip; waits for people.",
            triggers=[
                DeploymentEventTrigger(
                    name="A trip starts its recovery",
                    expect={TRIPPED},
                    match={"prefect.resource.id": "circuit-breaker.*"},
                    parameters={
                        "incident_id": "{{ event.payload.incident_id }}",
                        "scope": "{{ event.payload.scope }}",
                    },
                )
            ],
            entrypoint_type=module,
        ),
        await health_verification.ato_deployment(
            "health-verification",
            tags=["verification", environment],
            description="Every minute: state, ledger, chain, outbox, feeds, conditions, services.",
            interval=VERIFY_EVERY,
            entrypoint_type=module,
        ),
        await resume.ato_deployment(
            "resume",
            tags=["kill-switch", environment],
            description="What a kill switch could not close, in its own incident; scheduled for when it can be.",
            entrypoint_type=module,
        ),
        await drill.ato_deployment(
            "drill",
            tags=["drill", environment],
            description="The whole circle, from the trip to OPEN again, on a paper account of its own.",
            interval=settings.drill.every,
            entrypoint_type=module,
        ),
    ]


async def _serve() -> None:
    running = RunningConfiguration.load()
    settings = running.settings
    # A form that was answered, or a trip, should not wait ten seconds for the next look.
    pace = {} if "PREFECT_RUNNER_POLL_FREQUENCY" in os.environ else {PREFECT_RUNNER_POLL_FREQUENCY: 1}
    with watching(settings), temporary_settings(updates=pace), reported(SERVE, running):
        runner = Runner(limit=None)
        for deployment in await deployments():
            await runner.aadd_deployment(deployment)
        shared = asyncio.create_task(_leave_schedules_to_others(runner, settings))
        try:
            await runner.start()
        finally:
            shared.cancel()


async def _leave_schedules_to_others(runner: Runner, settings: Settings) -> None:
    """Whoever stops pauses the schedules, lest late runs pile up; not while another one still runs them."""
    while True:
        runner.pause_on_shutdown = not await asyncio.to_thread(another_runs, settings, SERVE)
        await asyncio.sleep(LOOK_FOR_OTHERS_EVERY)


def main() -> int:
    try:
        asyncio.run(_serve())
    except BreakerError as error:
        sys.stderr.write(f"serve: {error}\n")
        return 2
    except (httpx.HTTPError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not orchestrator.is_unreachable(error):
            raise
        why = orchestrator.describe_failure(error)
        sys.stderr.write(f"serve: Prefect at {orchestrator.api_url()}: {why}. Nothing is served: put that right\n")
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
