"""Rewards as pure functions on tensors, one to a file."""
