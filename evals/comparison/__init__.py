"""Guiders compared at equal strength."""
