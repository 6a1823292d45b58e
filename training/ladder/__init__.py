"""Training of the ladder codec and of the receiver's restoration."""
