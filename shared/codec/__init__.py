"""The patch codec: encoders and decoders of the levels."""
