"""Recording to Recording to network input."""
