"""Profiles measured, and read in words."""
