"""The classes of algorithms: hyperparameters, checks, and the rule."""
