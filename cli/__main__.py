"""`python -m cli` is `breaker`."""

from cli import main

main()
