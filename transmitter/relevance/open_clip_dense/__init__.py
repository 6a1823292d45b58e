"""Relevance from plain OpenCLIP weights, for users who have no MAFT+ checkpoint; see `extractor`."""
