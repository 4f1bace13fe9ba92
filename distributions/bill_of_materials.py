"""Write the application's bill of materials (CycloneDX) from what an installation of it consists of.

`make build` runs it with the folder of the two wheels, in an environment that has uv and cyclonedx-py. It installs them
and exactly what ops/requirements.lock names into an environment that it throws away: so they are seen to fit together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent / "ops" / "requirements.lock"
APPLICATION = "trading-breaker-ops"
TOOLS = Path(sys.executable).parent


def main() -> None:
    dist = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as environment:
        bill = _bill_of(_installed(Path(environment), dist))
    version = bill["metadata"]["component"]["version"]
    target = dist / f"{APPLICATION.replace('-', '_')}-{version}.cdx.json"
    target.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{target}: {len(bill['components'])} components")


def _installed(environment: Path, dist: Path) -> Path:
    """The interpreter of a new environment that has the application."""
    python = environment / "bin" / "python"
    _run("uv", "venv", "--quiet", "--python", sys.executable, str(environment))
    install = ("uv", "pip", "install", "--quiet", "--python", str(python))
    _run(*install, "--require-hashes", "-r", str(LOCK))
    # Without the cache, which may have another build of the same version.
    _run(*install, "--no-cache", "--no-deps", "--no-index", "--find-links", str(dist), APPLICATION, "trading-breaker")
    _run("uv", "pip", "check", "--quiet", "--python", str(python))
    return python


def _bill_of(python: Path) -> dict[str, Any]:
    """The environment's components, with the application as what the bill is about."""
    bill: dict[str, Any] = json.loads(_run("cyclonedx-py", "environment", "--output-reproducible", str(python)))
    application = next(each for each in bill["components"] if each["name"] == APPLICATION)
    bill["components"].remove(application)
    bill["metadata"]["component"] = application | {"type": "application"}
    return bill


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([TOOLS / tool, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tool} {arguments[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
