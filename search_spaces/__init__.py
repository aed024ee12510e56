"""What may vary in a sweep: axes, the paper's grids and search samplers."""
