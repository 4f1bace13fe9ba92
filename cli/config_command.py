"""Run `breaker config`: show what is in force and where from, and whether running processes have the same."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict

import typer

from cli.config_view import show_comparisons, show_entries
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import JsonOption
from configuration.in_force import in_force
from configuration.locations import configuration_file
from configuration.redis_clients import redis_client
from configuration.running import configuration_hash
from configuration.settings import Settings, load_settings
from tasks.running_services import Comparison, compare_configuration, read_services


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(config)


def config(as_json: JsonOption = False) -> None:
    """What is in force, from where each value comes, and which running processes have the same. Secrets are masked.

    Exit status: 0 every running process has this file, 1 one has not, or that can't be known.
    """
    settings = load_settings()
    file, here = configuration_file(), configuration_hash()
    entries = in_force(settings)
    compared, problem = _compare(settings, here)
    warnings = _warnings(settings)
    if as_json:
        processes = [{**asdict(each.service), "same": each.same, "advice": each.advice or None} for each in compared]
        values = [entry.as_dict() for entry in entries]
        document = {
            "file": str(file),
            "hash": here,
            "values": values,
            "processes": processes,
            "warnings": warnings,
            "problem": problem,
        }
        typer.echo(json.dumps(document))
    else:
        show_entries(entries, str(file.absolute()) if file.is_file() else "", here)
        show_comparisons(compared, here)
        for warning in warnings:
            say(warning)
    if problem:
        sys.stderr.write(f"breaker: {problem}\n")
    if problem or not all(each.same for each in compared):
        raise typer.Exit(Exit.REFUSED)


def _warnings(settings: Settings) -> list[str]:
    """Of each account what can't work as it is configured, as far as this host tells by itself."""
    from brokers.missing import missing_for  # noqa: PLC0415  `--help` doesn't pay for it
    from tasks.safety_nets.check import unfit_of  # noqa: PLC0415

    found = []
    for name, account in settings.accounts.items():
        found += [f"accounts.{name}: {missing}"] if (missing := missing_for(account)) else []
        unfit = unfit_of(account) if account.safety_net is not None else ""
        found += [f"accounts.{name}.safety_net: {unfit}"] if unfit else []
    return found


def _compare(settings: Settings, here: str) -> tuple[tuple[Comparison, ...], str | None]:
    """Every process that was heard of in the last minute; or none, and why."""
    from redis.exceptions import RedisError  # noqa: PLC0415  `--help` doesn't pay for it

    try:
        with redis_client(settings, timeout=settings.redis_timeout) as redis:
            services = read_services(redis)
    except (RedisError, OSError) as error:
        return (), (
            f"which configuration each running process has is not known, as Redis did not say it "
            f"({type(error).__name__}); what is shown is this command's own: run it again once Redis answers"
        )
    return tuple(compare_configuration(service, here, socket.gethostname()) for service in services), None
