"""Prompts, files, data sets and processes."""
