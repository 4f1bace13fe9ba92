"""Keep open pages up to date."""
