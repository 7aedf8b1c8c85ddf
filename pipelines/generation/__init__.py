"""Pictures from settings: load a pipeline, draw, make grids, read and write PNG."""
