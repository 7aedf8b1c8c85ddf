"""Profiles of a model, and what is resolved by them."""
