"""Serve the metrics: `python -m services.exporter`, `breaker metrics`."""

import sys

from services.exporter.server import main

sys.exit(main())
