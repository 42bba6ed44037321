"""One file per algorithm: its state, its scalars, its rule for one leaf, its factory. No plumbing."""
