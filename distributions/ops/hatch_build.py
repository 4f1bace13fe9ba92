"""Build the application from packages that lie beside the library, and bind it to the library's version.

In a checkout the packages are two folders up; in an unpacked source distribution they are here, beside PKG-INFO.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class LibraryVersion(MetadataHookInterface):
    """In a checkout only: an unpacked source distribution knows both from its PKG-INFO."""

    def update(self, metadata: dict[str, Any]) -> None:
        project = tomllib.loads((_checkout(self.root) / "pyproject.toml").read_text("utf-8"))["project"]
        metadata["version"] = project["version"]
        metadata["dependencies"] = [f"{project['name']}=={project['version']}", *self.config["dependencies"]]


class Packages(BuildHookInterface[Any]):
    """Names what each package's folder holds, but for what is left out. A folder that is missing fails the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # has `dev-mode-dirs`
            return
        unpacked = Path(self.root, "PKG-INFO").is_file()
        parent = Path(self.root) if unpacked else _checkout(self.root)
        left_out = {"__pycache__", *self.config["left-out"]}
        for package in self.config["packages"]:
            build_data["force_include"] |= {
                str(path): f"{package}/{path.name}"
                for path in sorted((parent / package).iterdir())
                if left_out.isdisjoint((path.name, f"{package}/{path.name}"))
            }


def _checkout(root: str) -> Path:
    return Path(root).parents[1]
