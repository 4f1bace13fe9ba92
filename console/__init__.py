"""The web console, the REST API and the metrics exporter."""
