"""What a run writes down, and what it is afterwards: rows, a typed summary, a manifest, a digest."""
