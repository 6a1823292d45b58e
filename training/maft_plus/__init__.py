"""Training of MAFT+, the extractor of the paper; run with `python -m training.maft_plus`."""
