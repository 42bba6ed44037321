"""Compiles and launches kernels."""
