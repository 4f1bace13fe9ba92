"""`python -m services.exporter` is `breaker metrics`."""

import sys

from services.exporter.server import main

sys.exit(main())
