"""A candidate as a model folder, its card, and the way back from a number to its data."""
