"""Transformations made of transformations."""
