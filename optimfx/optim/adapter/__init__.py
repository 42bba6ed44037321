"""Adapts groups of parameters and their state to the engine."""
