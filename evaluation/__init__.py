"""Measures what the system does: quality on datasets and benchmarks."""
