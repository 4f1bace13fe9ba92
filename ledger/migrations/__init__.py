"""The audit log's migrations."""
