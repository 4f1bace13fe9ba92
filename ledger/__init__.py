"""Keep the audit log: every action exactly once, in a chain that shows whatever is done to it."""
