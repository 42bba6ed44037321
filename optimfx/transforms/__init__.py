"""Links: the small transformations that chains are made of."""
