"""Close a share of a kill switch's accounts, on a worker: the flow that the run which splits them off asks for.

It neither trips the breaker nor tells people nor keeps pending exits: the run that it is a part of does, by what this
one publishes in Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State as FlowState
from prefect.context import TagsContext
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Completed, Failed
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from breaker import State
from brokers.coverage import coverage_of
from brokers.registry import close_brokers, open_brokers
from configuration.breakers import async_breaker_of
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings, load_settings
from flows.drivers import RunStep, with_prefect
from flows.kill_context import open_kill_run
from flows.kill_procedure import close_here, read_cost
from tasks.kill.report import KillReport, seconds
from tasks.kill.run import KillRun, current_kill, make_report
from tasks.kill.share_watch import claim_share, time_left_of_share
from tasks.kill.shares import Share


@flow(
    name="kill-share",
    flow_run_name="kill-share-{number}-of-{of}-{incident_id}",
    description="Close a share of a kill switch's accounts. Started by the kill switch, and by nobody else.",
    persist_result=False,
    validate_parameters=True,
)
async def kill_share(
    incident_id: str,
    run_id: str,
    number: int,
    of: int,
    accounts: list[str],
    scope: str,
    reason: str,
    operator: str,
    trip_event_id: str,
    closes_as: dict[str, str],
) -> FlowState[Any]:
    """Close these accounts.

    Args:
        incident_id: the kill switch's.
        run_id: under which the status of this share is looked for.
        number: which share this is.
        of: how many there are.
        accounts: names from the configuration.
        scope: which breaker was tripped.
        reason: why, for the record.
        operator: who asked for it.
        trip_event_id: of the trip that was made.
        closes_as: by account, the incident that its closes are named by.
    """
    share = Share(number, of, tuple(accounts), run_id)
    get_run_logger().info("%s", share)
    with TagsContext(current_tags=set()):  # the run's tags stay the run's; see the steps
        report = await run_share(
            share,
            with_prefect,
            load_settings(),
            reason=reason,
            operator=operator,
            incident_id=incident_id,
            scope=scope,
            trip_event_id=trip_event_id,
            closes_as=closes_as,
        )
    if report is None:
        return Completed(name="Skipped", message="Another process had begun it before, or it is too late for it.")
    if report.flat:
        return Completed(message=f"FLAT {seconds(report.flat_after)} after its start: {report.covers}")
    return Failed(message=f"NOT FLAT: {', '.join(each.account for each in report.accounts if not each.flat)}")


async def run_share(
    share: Share,
    do: RunStep,
    settings: Settings,
    *,
    reason: str,
    operator: str,
    incident_id: str,
    scope: str,
    trip_event_id: str,
    closes_as: Mapping[str, str],
) -> KillReport | None:
    """Close its accounts and read what that cost; None where another process has begun it before, or it is too late.

    Raises InvalidInput where one of them is not configured here, ConfigurationError where its adapter is not installed,
    before anything is begun.
    """
    accounts = coverage_of(scope, settings.accounts, share.accounts).accounts
    brokers = open_brokers({name: settings.accounts[name] for name in accounts}, markets_dir=settings.markets_dir)
    try:
        # Not before they are open, which takes seconds for many: whoever has begun is to give a sign of life at once.
        time_left = await _begin(settings, share, scope, incident_id)
        if time_left is None:
            return None
        async with open_kill_run(
            reason=reason,
            operator=operator,
            incident_id=incident_id,
            accounts=accounts,
            scope=scope,
            settings=_with_deadline(settings, time_left),
            trip_event_id=trip_event_id,
            closes_as=closes_as,
            opened=brokers,
            share=share,
        ) as run:
            return await _close(run, share, do)
    finally:
        await close_brokers(brokers.values())


async def _close(run: KillRun, share: Share, do: RunStep) -> KillReport:
    token = current_kill.set(run)
    try:
        if run.trail is not None:
            run.trail.flow_run_id = this_flow_run.id
        await close_here(run, do)
        run.report = report = make_report(run)
        run.record("KILL_SHARE_FINISHED", share=str(share), flat=report.flat)
        costs = await asyncio.gather(*(read_cost(run, do, account) for account in run.brokers))
        run.report = replace(report, costs=tuple(costs))
        return run.report
    finally:
        current_kill.reset(token)


def _with_deadline(settings: Settings, time_left: float) -> Settings:
    return settings.model_copy(update={"kill": settings.kill.model_copy(update={"deadline": time_left})})


async def _begin(settings: Settings, share: Share, scope: str, incident_id: str) -> float | None:
    """Seconds that it has, once it is this process's; None where it is not to be begun.

    A worker may come to it when whoever asked for it is gone, the breaker reset and people trading again. Without Redis
    nobody could be told of it: then the run that it is a part of does it.
    """
    breaker = async_breaker_of(settings, scope)
    redis = async_redis_client(settings, timeout=settings.redis_timeout, retry=Retry(NoBackoff(), 0))
    try:
        status = await breaker.get_status()
        if status.state is not State.TRIPPED or status.incident_id != incident_id:
            return None
        time_left = await time_left_of_share(redis, share.run_id)
        return time_left if time_left is not None and await claim_share(redis, share.run_id) else None
    except (RedisError, OSError):
        return None
    finally:
        await redis.aclose()
        await breaker.close()
