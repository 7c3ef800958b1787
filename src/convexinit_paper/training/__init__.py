"""Training of stacked networks."""
