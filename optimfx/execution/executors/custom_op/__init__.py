"""The kernel as an op of torch, for graphs and transforms."""
