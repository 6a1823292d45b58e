"""The commands of `mmsc`, one module each."""
