"""The entropy-coded patch codec: integer networks choose the tables by which a range coder codes integers."""
