"""Checks our MAFT+ against golden tensors of the original: `python -m evaluation.maft_golden FILE --json F`."""
