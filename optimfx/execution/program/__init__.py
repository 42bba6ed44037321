"""Records a rule as a sequence of operations."""
