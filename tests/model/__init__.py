"""Random histories of the real program against a model of it."""
