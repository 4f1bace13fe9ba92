"""Start resident processes (`standby`, `monitor`, `gateway`, `console`, …) and set dead-man's switches."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import typer

from brokers.coverage import coverage_of, named_in
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import ScopeOption
from configuration.fingerprint import configuration_fingerprint
from configuration.redis_clients import redis_client
from configuration.running import RunningConfiguration
from configuration.settings import load_settings

deadman_app = typer.Typer(
    help="Dead-man's switches: one that is not renewed within its time trips its scope. The standby watches them.",
    epilog=EPILOG,
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(help="A word that names the switch.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(standby)
    app.command(epilog=EPILOG)(services)
    app.command(epilog=EPILOG)(monitor)
    app.command(epilog=EPILOG)(gateway)
    app.command("console", epilog=EPILOG)(serve_console)
    app.command("metrics", epilog=EPILOG)(serve_metrics)
    for command in (renew, release):
        deadman_app.command(epilog=EPILOG)(command)
    app.add_typer(deadman_app, name="deadman")


def standby() -> None:
    """Stay resident with everything open, so that a kill begins within milliseconds. Until SIGTERM or Ctrl-C."""
    from services.standby import stand_by  # noqa: PLC0415  everything slow is behind it

    fingerprint = configuration_fingerprint()
    stand_by(RunningConfiguration.load(), fingerprint)


def services() -> None:
    """Announce trips, watch resets, tell people, beside a work pool's workers. Until SIGTERM or Ctrl-C."""
    from services.watches import watch  # noqa: PLC0415  everything slow is behind it

    watch(RunningConfiguration.load())


def monitor() -> None:
    """Measure accounts and feeds for the automatic trips. Until SIGTERM or Ctrl-C.

    On as many hosts as you like: one polls each account, another takes over. `serve` and `services` do it too.
    """
    from services.account_monitor import monitor as monitor_accounts  # noqa: PLC0415  everything slow is behind it

    monitor_accounts(RunningConfiguration.load())


def gateway(
    account: Annotated[
        str | None, typer.Argument(help="The account that it guards; the only one unless given.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0 for a free one.")] = 8510,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="Whose orders they all are; its breaker holds them too.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="One more breaker that holds its orders, such as symbol:TSLA; any number."),
    ] = None,
    normal_quantity: Annotated[
        list[str] | None,
        typer.Option(
            "--normal-quantity",
            metavar="SYMBOL=N",
            help="The normal size of an order, of which a quiet period allows a part; '*=N' for any other symbol.",
        ),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option("--tls-certificate", help="Serve HTTPS with it.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="The certificate's key.")] = None,
) -> None:
    """Guard engines in any language: a proxy of Alpaca's API that asks the gate about each order. Until SIGTERM or
    Ctrl-C.

    An engine uses it in place of Alpaca's base URL, with the account's own keys.
    """
    from services.gateway.serve import GatewayOptions, serve_gateway  # noqa: PLC0415  everything slow is behind it

    sizes = dict(_size(text) for text in normal_quantity or ())
    serve_gateway(
        RunningConfiguration.load(),
        GatewayOptions(account, host, port, strategy, tuple(scope or ()), sizes, tls_certificate, tls_key),
    )


def _size(text: str) -> tuple[str, Decimal]:
    symbol, _, number = text.partition("=")
    try:
        size = Decimal(number)
    except InvalidOperation:
        size = Decimal(0)
    if not symbol or not size.is_finite() or size <= 0:
        raise typer.BadParameter(f"{text} is not SYMBOL=N, as in AAPL=100 or '*=10'", param_hint="--normal-quantity")
    return symbol, size


def renew(
    name: NameArgument,
    within: Annotated[float, typer.Option("--within", help="Seconds in which the next renewal must come.")],
    scope: ScopeOption = "global",
    kill: Annotated[bool, typer.Option("--kill", help="Silence also flattens what the scope covers.")] = False,
) -> None:
    """Give a sign of life; the first one arms the switch."""
    from breaker.deadman import DeadMansSwitch  # noqa: PLC0415

    settings = load_settings()
    named = named_in(settings, scope)
    scope = named.scope
    if kill:
        coverage_of(scope, ())  # refused now, and not when it has fallen silent
    if named.doubt:
        say(f"WARNING: {named.doubt}: its silence trips {scope}, and flattens nothing from here")
    with redis_client(settings) as redis:
        DeadMansSwitch(redis, name, within, scope=scope, action="kill" if kill else "trip").renew()
    typer.echo(f"{name} is to be renewed within {within:g} s; silence {'kills' if kill else 'trips'} {scope}")


def release(name: NameArgument) -> None:
    """Disarm a switch: from now on its silence means nothing."""
    from breaker.deadman import DeadMansSwitch, armed_switches  # noqa: PLC0415

    with redis_client(load_settings()) as redis:
        if not DeadMansSwitch(redis, name, 1.0).release():
            armed = ", ".join(armed_switches(redis)) or "none"
            say(f"no switch of the name {name} is armed, so nothing was released; armed are: {armed}")
            raise typer.Exit(Exit.REFUSED)
    typer.echo(f"{name} is released")


def serve_console() -> None:
    """Serve the web console and the REST API until interrupted."""
    from console.serve import main  # noqa: PLC0415

    raise typer.Exit(main())


def serve_metrics() -> None:
    """Serve the metrics for Prometheus until interrupted."""
    from services.exporter.server import main  # noqa: PLC0415

    raise typer.Exit(main())
