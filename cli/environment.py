"""Tell whether commands go to a console. Standard library only: it comes before anything else is imported."""

from __future__ import annotations

import os

URL, TOKEN = "BREAKER_URL", "BREAKER_TOKEN"


def through_console() -> bool:
    """Whoever acts needs the console's permission then, and nothing of this host's configuration is used."""
    return bool(os.environ.get(URL))
