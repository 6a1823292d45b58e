"""Training code of the shipped weights."""
