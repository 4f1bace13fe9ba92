"""Serve the web console and the REST API."""
