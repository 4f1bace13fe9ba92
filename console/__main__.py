"""Serve the console: `python -m console`."""

import sys

from console.serve import main

sys.exit(main())
