"""HOW: methods that combine predictions, and gradients."""
