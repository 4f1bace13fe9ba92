"""`python -m benchmarks [module …]`: run every benchmark, print one table, write bench.json.

A benchmark is a module of this package with a function `run() -> list[Row]`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import pkgutil
import platform
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import benchmarks
from benchmarks.rows import Row

_HEADINGS = ("what", "value", "unit", "baseline in the same run", "target", "")


def main() -> int:
    """0 when every target was reached, 1 otherwise."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure, beside baselines.")
    options.add_argument("modules", nargs="*", help="benchmarks to run; all of them unless given")
    options.add_argument("--json", type=Path, default=Path("bench.json"), help="file to write")
    given = options.parse_args()
    logging.disable(logging.CRITICAL)  # the faults are ours, and peers log each of them with a page of traceback
    rows: list[Row] = []
    for name in given.modules or _names():
        module = importlib.import_module(f"benchmarks.{name}")
        if not hasattr(module, "run"):
            continue
        begin = time.monotonic()
        sys.stderr.write(f"{name} …")
        sys.stderr.flush()
        rows += module.run()
        sys.stderr.write(f" {time.monotonic() - begin:.0f} s\n")
    print(_table(rows))
    given.json.write_text(json.dumps({"machine": _machine(), "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return 0 if all(row.met is not False for row in rows) else 1


def _names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__")


def _machine() -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def _table(rows: list[Row]) -> str:
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for row in rows:
        value = row.value if isinstance(row.value, str) else f"{row.value:,.4g}"
        verdict = {None: "", True: "met", False: "NOT MET"}[row.met]
        lines.append((f"{row.area}: {row.what}", value, row.unit, row.baseline, row.target, verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
