"""Exact and approximate search over memmapped descriptors, and the neighbour graph of a gallery."""
