"""The settings of a guider searched."""
