"""Relevance extractors: picture and query to a soft map of what matters."""

from pathlib import Path

from transmitter.relevance.contract import Relevance, RelevanceExtractor

__all__ = ["Relevance", "RelevanceExtractor", "load_embedded"]


def load_embedded(path: Path | None = None, device: str = "cpu") -> RelevanceExtractor:
    """Loads the small model that ships with the project.

    Args:
        path: a weights file; none means the shipped one.
        device: "cpu", "cuda", "cuda:1"...

    Raises:
        InvalidInputError: this machine has no such device.
        WeightsError: the file is absent, of another format or version, or damaged.
    """
    # Imported here so that the contract can be used without loading torch.
    from transmitter.relevance.devices import usable_device  # noqa: PLC0415
    from transmitter.relevance.embedded import EmbeddedExtractor  # noqa: PLC0415
    from transmitter.relevance.weights import load  # noqa: PLC0415

    return EmbeddedExtractor(load(path), usable_device(device))
