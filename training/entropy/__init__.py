"""Training of the entropy-coded patch codec."""
