"""`python -m console` serves the console."""

import sys

from console.serve import main

sys.exit(main())
