"""Training of the embedded relevance extractor; run with `python -m training.relevance`."""
