"""Networks that turn pictures into features, and references of real pictures."""
