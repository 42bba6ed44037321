"""Generates the source of a kernel from a rule."""
