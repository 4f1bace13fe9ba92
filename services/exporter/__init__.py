"""Export what Redis, the ledger and the gates say as Prometheus metrics."""
