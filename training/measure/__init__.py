"""What the pocket models can do: one command measures it, benchmarks/results keeps it."""
