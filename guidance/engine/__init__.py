"""One guided step: what a guider is made of, what it asks for and how it combines the answers."""
