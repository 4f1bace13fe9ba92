"""Take the steps of a recovery: the runbook's checklist, what machines measure of it, and what people decide."""
