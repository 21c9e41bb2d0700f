"""Merging task vectors: pure functions on tensors, and the driver that streams task vectors through them."""
