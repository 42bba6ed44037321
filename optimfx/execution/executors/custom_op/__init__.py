"""Wraps a step of leaves as a custom op of torch, for graphs and transforms."""
