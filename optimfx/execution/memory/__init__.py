"""How tensors lie in memory, and in which dtypes rules compute."""
