"""Base models, and the central type: what unlearning changed in one."""
