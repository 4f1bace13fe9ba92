"""Configure the documentation's site. `make docs` builds it into build/docs; nothing in it comes from elsewhere."""

from __future__ import annotations

import re
from typing import Any

project = "breaker"
project_copyright = "the breaker authors, Apache-2.0"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The runbook is kept as it was given; some of its links lead to documents of its own.
exclude_patterns = ["_build", "evidence/operations-runbook.md"]

# Headings get the anchors that GitHub gives them, so that a link works in both.
myst_heading_anchors = 3
# Docstrings write `name` for code, as the rest of the documentation does.
default_role = "code"

html_theme = "furo"
html_title = "breaker"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": True}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# What others define is not documented here, and nothing may be fetched to look it up; nor is what is ours alone.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!breaker\.|brokers\.).*"),
    (r"py:.*", r".*\._\w+"),
    (r"py:class", r".*\.T_co"),  # a type variable
]
nitpick_ignore = [("py:class", "breaker.gate.guard.Check")]


def _keep_bars(app: Any, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Let |quantity| in a docstring be the magnitude that it is, and no substitution."""
    lines[:] = [re.sub(r"(?<!`)\|(\w+)\|(?!`)", r"\|\1\|", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _keep_bars)


# The fields of a dataclass are listed as they are; an "Attributes" section only says more about them.
napoleon_use_ivar = True
