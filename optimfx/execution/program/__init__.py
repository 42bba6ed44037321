"""A rule as a line of operations, recorded on stand-ins for tensors."""
