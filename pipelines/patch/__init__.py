"""Networks changed for a call: their class, arguments, layers and attention; second networks."""
