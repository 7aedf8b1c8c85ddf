"""WHERE: what a prediction is compared with."""
