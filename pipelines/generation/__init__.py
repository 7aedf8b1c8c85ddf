"""Pictures from settings: loading, drawing, grids, PNG."""
