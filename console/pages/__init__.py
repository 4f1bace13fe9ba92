"""Render the console's pages."""
