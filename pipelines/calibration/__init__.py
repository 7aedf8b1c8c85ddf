"""Intent settled on a pipeline, and fits."""
