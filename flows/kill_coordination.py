"""Spread a kill switch of many accounts over the work pool's workers, follow them, and take over what falls silent.

The run that is asked for closes the first share itself and has a worker close each of the others. Nothing rests on
that: what no worker has begun by then is closed here, one share after another, and all of it at once when its time is
up; so is what falls silent. By the same procedure, and with the same names for its closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from breaker import State
from brokers.sweep import first_sweep
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from flows.drivers import RunStep
from flows.kill_context import record_sweep
from flows.kill_procedure import close_account, close_here
from flows.run_names import environment_tag
from tasks import orchestrator
from tasks.kill.account import ANSWERS_AFTER_DEADLINE
from tasks.kill.memory import attempt_of
from tasks.kill.run import KillRun
from tasks.kill.share_watch import ShareElsewhere, ask_for_share, claim_share, starts_within, why_taken_over
from tasks.kill.shares import Share, split
from tasks.kill.status import KillStatus
from tasks.kill.status_feed import EVERY, read_runs

DEPLOYMENT = "kill-share"
ASK_AGAIN_AFTER = 0.5
"""Seconds until a Prefect that did not answer is asked again, for as long as a share may take to begin."""
LOOK_EVERY = 0.1
"""Seconds between two looks at what was heard of a share."""


async def close_in_shares(run: KillRun, do: RunStep) -> None:
    """Close the run's accounts: here, and where there are more than one process is to take, on workers too."""
    settings = run.configuration
    shares = split(list(run.brokers), None if run.resumes else run.settings.accounts_per_worker)
    if settings is None or len(shares) < 2:
        await close_here(run, do)
        return
    mine, *others = shares
    own = asyncio.gather(*(close_account(run, do, account) for account in mine.accounts))
    await asyncio.gather(own, _close_elsewhere(run, do, settings, others, own))


async def _close_elsewhere(
    run: KillRun, do: RunStep, settings: Settings, shares: Sequence[Share], own: asyncio.Future[list[None]]
) -> None:
    accounts = [name for share in shares for name in share.accounts]
    await asyncio.gather(*(run.swept(name) for name in accounts))
    if run.first_sweep_after is None and not run.sweeping:
        await _sweep(run, accounts)
    if run.naming_closes is not None:  # the shares are told what was agreed on
        await asyncio.wait({run.naming_closes})
    asked_at, begin_within = run.elapsed, starts_within(run.settings.share_starts_within, run.clock.left)
    redis = async_redis_client(settings, timeout=settings.redis_timeout, retry=Retry(NoBackoff(), 0))
    if why := await _why_no_shares(redis, run, shares, asked_at + begin_within):
        await redis.aclose()
        run.record_missing(f"workers for {', '.join(accounts)}: {why}; they were closed here")
        await asyncio.gather(*(close_account(run, do, account) for account in accounts))
        return
    for name in accounts:
        run.update(name, phase="waiting for a worker")
    away = [ShareElsewhere(share, asked_at, {name: run.progress[name] for name in share.accounts}) for share in shares]
    coordination = _Coordination(run, do, settings, redis, away, begin_within)
    run.following = asyncio.create_task(coordination.follow())
    seen_to = [asyncio.create_task(coordination.see_to(each)) for each in away]
    await asyncio.gather(*seen_to, coordination.close_unbegun(own, seen_to))


async def _sweep(run: KillRun, accounts: Sequence[str]) -> None:
    """In a run that Prefect has started nobody has: what waits for a worker must not wait with orders that may fill."""
    results = await first_sweep(
        [run.brokers[name] for name in accounts],
        run.settings.first_sweep_timeout,
        run.settings.cancel,
        lambda order: attempt_of(order, run.incident_id) is not None,
        coverage=run.coverage,
    )
    run.first_sweep_after = run.elapsed
    record_sweep(run, results, run.elapsed)


async def _why_no_shares(redis: Redis, run: KillRun, shares: Sequence[Share], until: float) -> str:
    """Why no worker can take a share now; empty where one can. A busy Prefect is asked again."""
    try:
        for share in shares:
            await ask_for_share(redis, share.run_id, run.clock.left)
    except (RedisError, OSError) as error:
        return f"Redis, by which they give signs of life, does not answer ({type(error).__name__})"
    status = await run.breaker.get_status()
    if status.state is not State.TRIPPED or status.incident_id != run.incident_id:  # as each of them looks
        return "the trip is not confirmed in this incident, and none begins before"
    while True:
        try:
            served = await orchestrator.served_deployments()
        except Exception as error:  # whatever Prefect's client raises: the accounts are closed all the same
            if run.elapsed + ASK_AGAIN_AFTER < until and not orchestrator.is_refusal(error):
                await asyncio.sleep(ASK_AGAIN_AFTER)
                continue
            return f"Prefect can't be asked: {orchestrator.describe_failure(error)}"
        return "" if DEPLOYMENT in served else f"nobody serves the deployment {DEPLOYMENT}"


class _Coordination:
    """The shares of one run that workers were asked for."""

    def __init__(
        self,
        run: KillRun,
        do: RunStep,
        settings: Settings,
        redis: Redis,
        away: list[ShareElsewhere],
        begin_within: float,
    ) -> None:
        self._run, self._do = run, do
        self._settings = settings
        self._redis = redis
        self._away = away
        self._begin_within = begin_within
        self._redis_heard_at = run.elapsed

    async def follow(self) -> None:
        """Read what becomes of the shares, until nothing more will."""
        try:
            while waited_for := [each for each in self._away if not each.ended.is_set()]:
                with suppress(RedisError, OSError):
                    found = await read_runs(self._redis, [each.share.run_id for each in waited_for])
                    self._redis_heard_at = self._run.elapsed
                    for each in waited_for:
                        if (status := found.get(each.share.run_id)) is not None and not each.ended.is_set():
                            self._note(each, status)
                await asyncio.sleep(EVERY)
        finally:
            await self._redis.aclose()

    async def see_to(self, each: ShareElsewhere) -> None:
        """Have a worker close the share's accounts, and close them here if that comes to nothing."""
        share, run = each.share, self._run
        run.elsewhere |= dict.fromkeys(share.accounts, each.cost_of)
        flow_run_id, why = await self._ask_for(each)
        why = why or await self._wait_for(each)
        if why:
            each.ended.set()
            await asyncio.gather(self._take_over(share, share.accounts, why), _give_up(flow_run_id, why))
        elif (failed := each.failed) and not run.overdue:  # its host may lack what this one has: a key, a way there
            await self._take_over(share, failed, f"it could not close {', '.join(failed)}")

    async def close_unbegun(self, own: asyncio.Future[list[None]], seen_to: Sequence[asyncio.Task[None]]) -> None:
        """Close what no worker has begun, one share after another, once the run has nothing of its `own` to close."""
        await asyncio.wait({own})
        for each, seeing in zip(self._away, seen_to, strict=True):
            if each.heard_at is None and not each.ended.is_set() and await self._is_mine(each):
                each.closed_here = "no worker had begun it by the time that this one had nothing else to close"
                await asyncio.wait({seeing})

    async def _take_over(self, share: Share, accounts: Sequence[str], why: str) -> None:
        run = self._run
        for name in accounts:
            run.elsewhere.pop(name, None)
        run.record("KILL_SHARE_TAKEN_OVER", share=str(share), accounts=list(accounts), why=why)
        run.missing.append(f"the worker of {share}: {why}; it was closed here")
        await asyncio.gather(*(close_account(run, self._do, account) for account in accounts))

    async def _ask_for(self, each: ShareElsewhere) -> tuple[UUID | None, str]:
        """The flow run that is to close it, or why there is none. A busy Prefect is asked again."""
        run, share = self._run, each.share
        while not each.closed_here:
            try:
                flow_run_id = await self._start(share)
            except Exception as error:  # whatever Prefect's client raises: its accounts are closed all the same
                in_time = run.elapsed - each.asked_at + ASK_AGAIN_AFTER < self._begin_within
                if in_time and not orchestrator.is_refusal(error):
                    await asyncio.sleep(ASK_AGAIN_AFTER)
                    continue
                return None, f"Prefect did not take it: {orchestrator.describe_failure(error)}"
            run.record("KILL_SHARE_SENT", share=str(share), accounts=list(share.accounts), flow_run=str(flow_run_id))
            return flow_run_id, ""
        return None, each.closed_here

    async def _start(self, share: Share) -> UUID:
        run = self._run
        return await orchestrator.start_subflow(
            f"{DEPLOYMENT}/{DEPLOYMENT}",
            f"{DEPLOYMENT}-{share.number}-of-{share.of}-{run.incident_id}",
            ["kill-switch", environment_tag(self._settings)],
            share.run_id,
            {
                "incident_id": run.incident_id,
                "run_id": share.run_id,
                "number": share.number,
                "of": share.of,
                "accounts": list(share.accounts),
                "scope": run.scope,
                "reason": run.reason,
                "operator": run.operator,
                "trip_event_id": run.trip_event_id or run.run_id,
                "closes_as": {name: run.accounts[name].closes_as for name in share.accounts},
            },
        )

    async def _wait_for(self, each: ShareElsewhere) -> str:
        """Return once the worker has reported, or why its accounts are to be closed here."""
        run = self._run
        while not each.reported:
            if run.clock.left < -ANSWERS_AFTER_DEADLINE:
                return "its time is up"
            if each.closed_here:
                return each.closed_here
            why = why_taken_over(each, run.elapsed, self._redis_heard_at, self._begin_within)
            if why and (each.heard_at is not None or await self._is_mine(each)):
                return why
            await asyncio.sleep(LOOK_EVERY)
        return ""

    async def _is_mine(self, each: ShareElsewhere) -> bool:
        """Whether no worker has begun it, and none will. One that has begun just now is waited for after all."""
        try:
            mine = await claim_share(self._redis, each.share.run_id)
        except (RedisError, OSError):  # twice is harmless, not at all is not
            return True
        if not mine:
            each.begun_by_somebody(self._run.elapsed)
        return mine

    def _note(self, each: ShareElsewhere, status: KillStatus) -> None:
        run = self._run
        each.hear(status, run.elapsed)
        for name, progress in each.progress.items():
            if name not in run.elsewhere:  # it is closed here by now
                continue
            run.accounts[name].progress = progress
        run.missing += [what for what in status.missing if what not in run.missing]


async def _give_up(flow_run_id: UUID | None, why: str) -> None:
    """So that Prefect neither starts it later nor says that it is running. Its word is not needed."""
    if flow_run_id is not None:
        with suppress(Exception):
            await orchestrator.cancel(flow_run_id, f"Taken over: {why}.")
