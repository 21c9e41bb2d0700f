"""Merges of task vectors: a table of them (registry), pure functions on tensors, and the driver that streams them."""
