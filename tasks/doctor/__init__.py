"""Look at everything that has to be in order before it is needed."""
