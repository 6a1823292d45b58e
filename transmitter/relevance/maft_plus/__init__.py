"""MAFT+ (ECCV 2024), the extractor of the paper, in plain PyTorch on open_clip's ConvNeXt."""
