"""What a step finds out once: the columns of leaves, the guard, the groups and their executors."""
