"""Write the generated parts of docs/reference: what the code itself says of its settings, commands, routes, metrics.

A generated part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of a page is written by hand.
`python -m docs.references` writes them anew (`make docs` does), and tests/docs fails where a page differs.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from breaker.rule_table import RULE_TABLE
from breaker.trip_reasons import TripReason
from brokers.ccxt.venue_table import VENUES
from brokers.safety_nets import NONE, timers
from cli.app import command_line
from cli.exit_codes import Exit
from configuration.rules import RuleSettings
from configuration.settings import Settings
from configuration.units import Unit
from console.api.application import create_api

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
EXPORTER = ROOT / "services" / "exporter"
ALERTS = ROOT / "deployments" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deployments" / "grafana" / "track7_slo.json"
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_PLAIN: Mapping[Any, str] = {
    str: "text",
    SecretStr: "secret",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Decimal: "decimal",
    Path: "path",
    Any: "value",
}
_METRICS = {"_gauge": "gauge", "GaugeMetricFamily": "gauge", "CounterMetricFamily": "counter", "_durations": "gauge"}


class MissingWords(Exception):
    """Something that has to be documented says nothing of itself; the message names it."""


# --- the configuration ------------------------------------------------------------------------------------------------


def configuration() -> str:
    """Every key of `breaker.toml`, by table."""
    return "\n".join(_tables(Settings, ""))


def _tables(model: type[BaseModel], path: str) -> Iterator[str]:
    yield f"## `[{path}]`\n\n{_first_line(model)}\n" if path else "## At the top\n"
    yield "| key | type | default | unit | meaning |\n| --- | --- | --- | --- | --- |"
    of_rules = {row.setting: row.meaning for row in RULE_TABLE.values()} if model is RuleSettings else {}
    words = {**meanings(model, (name for name in model.model_fields if name not in of_rules)), **of_rules}
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = _nested(field.annotation)
        if inner is not None:
            table, is_mapping = inner
            nested.append((f"{path}.{name}".lstrip(".") + (f".{_placeholder(name)}" if is_mapping else ""), table))
        cells = (f"`{name}`", _type(field, nested, inner), _default(field), unit_of(field), words[name])
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    for where, table in nested:
        yield from _tables(table, where)


def meanings(described: type, names: Iterable[str]) -> dict[str, str]:
    """What the docstring under each field of a model, or member of an enum, says, on one line.

    Raises:
        MissingWords: one of `names` has none.
    """
    found: dict[str, str] = {}
    statements = cast(ast.ClassDef, ast.parse(inspect.getsource(described)).body[0]).body
    for statement, following in pairwise(statements):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = " ".join(words.split())
    if missing := [name for name in names if name not in found]:
        raise MissingWords(f"{described.__name__}.{missing[0]} has no docstring: say what it means, in one sentence")
    return found


def unit_of(field: FieldInfo) -> str:
    return next((mark.word for mark in field.metadata if isinstance(mark, Unit)), "")


def numbers_without_unit(model: type[BaseModel] = Settings) -> Iterator[str]:
    """Fields that hold numbers and don't say of what; a port is its own unit, and an id has none."""
    for name, field in model.model_fields.items():
        inner = _nested(field.annotation)
        if inner is not None:
            yield from numbers_without_unit(inner[0])
        elif "port" in name or name.endswith("_id"):
            continue
        elif {int, float, Decimal} & set(_leaves(field.annotation)) and not unit_of(field):
            yield f"{model.__name__}.{name}"


def _nested(annotation: Any) -> tuple[type[BaseModel], bool] | None:
    models = [leaf for leaf in _leaves(annotation) if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
    return (models[0], _is_mapping(annotation)) if models else None


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is not None and issubclass(_class_of(annotation), Mapping)


def _class_of(annotation: Any) -> type:
    origin = get_origin(annotation)
    return origin if isinstance(origin, type) else object


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _leaves(arguments[0])
    elif arguments and get_origin(annotation) is not Literal:
        for argument in arguments:
            yield from _leaves(argument)
    else:
        yield annotation


def _placeholder(name: str) -> str:
    return "SCOPE" if name == "rules" else "NAME"


def _type(
    field: FieldInfo, nested: list[tuple[str, type[BaseModel]]], inner: tuple[type[BaseModel], bool] | None
) -> str:
    if inner is not None:
        where, _ = nested[-1]
        return f"[`[{where}]`](#{_anchor(where)})"
    bounds = [
        f"{sign} {_plain_number(getattr(mark, word))}"
        for mark in field.metadata
        for word, sign in _BOUNDS.items()
        if getattr(mark, word, None) is not None
    ]
    return _type_of(field.annotation) + (f", {' and '.join(bounds)}" if bounds else "")


def _anchor(where: str) -> str:
    """As headings are named by GitHub and by MyST alike."""
    return re.sub(r"[^a-z0-9_-]", "", where.lower())


def _type_of(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_of(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_of(one) for one in arguments if one is not type(None)))
    if origin is tuple:
        return f"list of {_type_of(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"table of {_type_of(arguments[1])}"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{word.value}`" for word in annotation)
    if "Network" in getattr(annotation, "__name__", str(annotation)):
        return "network"
    raise MissingWords(f"the reference has no word for the type {annotation}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    factory: Any = field.default_factory
    if factory is not None:
        return "" if factory in (dict, list, tuple) else _first_line(factory)
    return _default_of(field.default)


def _default_of(value: Any) -> str:
    match value:
        case None | () | BaseModel():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case tuple():
            return ", ".join(_default_of(one) for one in value)
        case int() | float() | Decimal():
            return f"`{_plain_number(value)}`"
        case str() | PurePath():
            return f"`{value}`"
    raise MissingWords(f"the reference has no way to write the default {value!r}")


def _plain_number(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"


def _first_line(described: Any) -> str:
    words = (inspect.getdoc(described) or "").split("\n\n")[0]
    if not words:
        raise MissingWords(f"{described.__name__} has no docstring")
    return " ".join(words.split())


# --- the command line -------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its options, and the exit statuses."""
    lines = ["## Exit status\n", "| status | meaning |\n| --- | --- |"]
    lines += [
        f"| {status.value} | {words} |"
        for status, words in zip(Exit, meanings(Exit, Exit.__members__).values(), strict=True)
    ]
    group = typer.main.get_command(command_line())
    return "\n".join([*lines, "", *_commands(group, "breaker")])


def _commands(group: Any, called: str) -> Iterator[str]:
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        yield f"## `{called} {name}`\n"
        yield f"{' '.join((command.help or '').split())}\n"
        if command.help is None:
            raise MissingWords(f"{called} {name} says nothing of itself")
        rows = [parameter.get_help_record(context) for parameter in command.params]
        if rows:
            yield "| option | meaning |\n| --- | --- |"
            yield from (f"| `{option}` | {' '.join(words.split())} |" for option, words in rows)
            yield ""
        if hasattr(command, "commands"):
            yield from _commands(command, f"{called} {name}")


# --- the REST API -----------------------------------------------------------------------------------------------------


def routes() -> str:
    """Every request of the API, and the bodies that it takes."""
    document = create_api().openapi()
    rows, bodies = [], []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            said = re.fullmatch(r"(.*) \(([A-Z_, ]+)\)", operation["summary"])
            if said is None:
                raise MissingWords(f"{method} {path} names no permission in its summary")
            permissions = " ".join(f"`{word}`" for word in said[2].split(", "))
            given = " ".join(f"`{parameter['name']}`" for parameter in operation.get("parameters", ()))
            words = " ".join(operation["description"].split())
            rows.append(f"| `{method.upper()} {path}` | {permissions} | {given} | {said[1]}. {words} |")
            schemas = document["components"]["schemas"]
            bodies += [_body(f"{method.upper()} {path}", schemas[name]) for name in _bodies(operation)]
    head = "| request | permission | parameters | |\n| --- | --- | --- | --- |"
    return "\n".join([head, *rows, "", *bodies])


def _bodies(operation: Mapping[str, Any]) -> Iterator[str]:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for one in schema.get("oneOf", [schema] if schema else []):
        yield one["$ref"].rpartition("/")[2]


def _body(request: str, schema: Mapping[str, Any]) -> str:
    form = schema["properties"].get("form", {}).get("const")
    lines = [f"### Body of `{request}`" + (f', `"form": "{form}"`' if form else ""), ""]
    lines += ["| field | | meaning |\n| --- | --- | --- |"]
    for name, field in schema["properties"].items():
        needed = "required" if name in schema.get("required", ()) else "optional"
        only = f"Always `{json.dumps(field['const']).strip(chr(34))}`." if "const" in field else ""
        choice = ", ".join(f"`{word}`" for word in field.get("enum", ()))
        words = " ".join(part for part in (field.get("description", ""), only, choice) if part)
        lines.append(f"| `{name}` | {needed} | {words} |")
    return "\n".join([*lines, ""])


# --- the metrics ------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric of the exporter, as its source names it."""
    rows = [
        f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels)} | {words} |"
        for name, kind, labels, words in sorted(_metrics())
    ]
    return "\n".join(["| name | type | labels | meaning |\n| --- | --- | --- | --- |", *rows, ""])


def _metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    nodes = (node for file in EXPORTER.glob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    for call in nodes:
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _METRICS):
            continue
        texts = [one.value for one in call.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if len(texts) != 2:
            continue  # the helper that makes any gauge
        kind = _METRICS[call.func.id]
        named = next((ast.literal_eval(given.value) for given in call.keywords if given.arg == "labels"), ())
        labels = ("stage",) if call.func.id == "_durations" else tuple(named)
        yield texts[0] + ("_total" if kind == "counter" else ""), kind, labels, texts[1]


def alerts() -> str:
    """Every alert of Prometheus's rules."""
    rows = []
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                when = f"`{' '.join(str(rule['expr']).split())}`".replace("|", "\\|")
                held = f", for {rule['for']}" if "for" in rule else ""
                rows.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | {when}{held} |")
    return "\n".join(["| alert | severity | when |\n| --- | --- | --- |", *rows, ""])


# --- the audit log ----------------------------------------------------------------------------------------------------


def reasons() -> str:
    """Every reason that this project gives for a trip."""
    rows = [f"| `{name}` | {words} |" for name, words in meanings(TripReason, TripReason.__members__).items()]
    return "\n".join(["| reason | meaning |\n| --- | --- |", *rows])


# --- the automatic rules ----------------------------------------------------------------------------------------------


def rules() -> str:
    """Every automatic rule, as the table has it."""
    rows = []
    for row in RULE_TABLE.values():
        default = "off" if row.default is None else f"`{row.default}`"
        cells = (
            f"`{row.rule}`",
            row.measured,
            f"`{row.setting}`",
            default,
            row.unit,
            row.scope,
            row.fed_by,
            row.source,
        )
        rows.append(f"| {' | '.join(cells)} |")
    head = "| rule | what is measured | setting | default | unit | scope | who feeds it | source |"
    return "\n".join([f"{head}\n| --- | --- | --- | --- | --- | --- | --- | --- |", *rows])


def safety_nets() -> str:
    """Every venue's own timer, as the table has it."""
    rows = []
    for timer in timers():
        if not timer.exists:
            rows.append(f"| {timer.venue} | none | | | {NONE} | |")
            continue
        longest = f" to {timer.longest:g} s" if math.isfinite(timer.longest) else " s and more"
        cells = (
            timer.venue,
            f"[{timer.name}]({timer.source})",
            f"{timer.shortest:g}{longest}; {timer.advice}",
            "requests" if timer.by_request else "the engine's connection",
            timer.covers + ("; off once it has fired" if timer.off_after_firing else ""),
            "; ".join(filter(None, (timer.needs, "`safety_net_cancels_stops`" if timer.cancels_stops else ""))),
        )
        rows.append(f"| {' | '.join(cells)} |")
    head = "| venue | timer | its time | renewed by | what it cancels | what it needs |"
    return "\n".join([f"{head}\n| --- | --- | --- | --- | --- | --- |", *rows])


def exchanges() -> str:
    """Every exchange that the adapter `ccxt` has an entry for."""
    rows = []
    for name, venue in VENUES.items():
        apart = sum(view.conditional for view in venue.orders)
        by = [
            {"account": "the account at once", "symbol": "by symbol", "": ""}[venue.cancels_all],
            f"{venue.batch} ids at once" if venue.batch else "",
        ]
        cells = (
            f"`{name}`",
            ", ".join(f"`{line}`" for line in venue.lines),
            f"apart, {apart} list{'s' if apart > 1 else ''}" if apart else "among the others",
            ", or ".join(filter(None, by)),
            venue.not_covered,
        )
        rows.append(f"| {' | '.join(cells)} |")
    head = "| exchange | product lines | conditional orders | cancels | neither read nor closed |"
    return "\n".join([f"{head}\n| --- | --- | --- | --- | --- |", *rows])


def dashboard() -> str:
    """What the dashboard's panel of the rules says of each."""
    return "  \n".join(f"{row.rule}: {row.measured} ({row.unit})" for row in RULE_TABLE.values())


# --- pages ------------------------------------------------------------------------------------------------------------

PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "configuration": ("configuration.md", configuration),
    "commands": ("cli.md", commands),
    "routes": ("rest-api.md", routes),
    "metrics": ("metrics.md", metrics),
    "alerts": ("metrics.md", alerts),
    "reasons": ("audit-actions.md", reasons),
    "rules": ("rules.md", rules),
    "safety-nets": ("safety-nets.md", safety_nets),
    "exchanges": ("ccxt.md", exchanges),
}
"""The generated parts by name: the page that each is on, and what writes it."""


def with_part(page: str, name: str, text: str) -> str:
    """`page` with `text` as its part `name`.

    Raises:
        MissingWords: the page has no such part.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise MissingWords(f"the page has no part between {begin} and {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def with_dashboard(text: str) -> str:
    """The dashboard, its panel of the rules described by the table."""
    board = json.loads(text)
    for panel in board["panels"]:
        if "cb_rule_distance" in json.dumps(panel):
            panel["description"] = dashboard()
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    DASHBOARD.write_text(with_dashboard(DASHBOARD.read_text(encoding="utf-8")), encoding="utf-8")
    for name, (page, write) in PARTS.items():
        path = PAGES / page
        path.write_text(with_part(path.read_text(encoding="utf-8"), name, write()), encoding="utf-8")


if __name__ == "__main__":
    main()
