"""Measuring what guidance does."""
