"""Profiles that ship, and published settings."""
