"""The mathematics of metrics."""
