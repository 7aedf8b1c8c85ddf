"""WHEN: guidance scales that change over a run."""
