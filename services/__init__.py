"""Run resident processes: serve, standby, trip watch, exporter."""
