"""Plans a step: the columns of leaves, their groups, and their executors."""
