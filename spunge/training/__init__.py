"""The training loop, its batches, and the state from which a stopped job goes on."""
