"""BEFORE AND AFTER: what happens to the conditioning and to the guided prediction."""
