"""Where what takes long is kept from one run to the next."""

import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Folder of what the stages of the training gave, unless another is named; it need not exist yet."""
    return Path(tempfile.gettempdir()) / "mmsc-relevance"


def sentence_cache(folder: Path | None = None) -> Path:
    """File of the sentence embeddings, as `sentence_features` keeps them.

    Args:
        folder: that of the training; None takes `cache_folder()`, so that measurements find what a training left.
    """
    return (folder or cache_folder()) / "sentences.npz"
