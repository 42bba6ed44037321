"""From the source of a kernel to its launch."""
