"""SPUNGE: split the forget data by an attribute, unlearn every shard, merge the task vectors (arXiv 2406.11780)."""

__version__ = "0.1.0"
