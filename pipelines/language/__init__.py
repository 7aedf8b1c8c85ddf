"""Guiders as words: the command line's language."""
