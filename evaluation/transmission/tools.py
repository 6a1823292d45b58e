"""The models that a measurement needs, loaded once per process."""

import hashlib
import importlib.metadata
import importlib.resources
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import features

from evaluation.transmission.clip import ClipScorer
from receiver.codecs import load_receiver
from receiver.contract import ReceiverCodec
from transmitter.codecs import load_sender
from transmitter.planning import SenderCodec
from transmitter.relevance import RelevanceExtractor, load_extractor
from transmitter.relevance.registry import DEFAULT_EXTRACTOR

_ENCODERS: Final = ("avif", "webp", "jpg")
_HASH_DIGITS: Final = 16


@dataclass(frozen=True)
class Settings:
    """What the figures depend on besides the dataset, the systems and the budgets."""

    avif_speed: int = 4
    """libaom's effort, 0 (slow) to 10."""

    judge: str | None = DEFAULT_EXTRACTOR
    """The extractor that sees the photo before and after, for the relevance L1; none leaves that empty."""

    clip_model: str | None = None
    """open_clip's name of a model; none leaves the CLIP score empty."""

    clip_weights: Path | None = None
    """That model's weights."""

    weights: tuple[tuple[str, Path], ...] = ()
    """Weights of extractors by name, where they are not the usual ones."""

    device: str = "cpu"
    """Where extractors compute; not part of the identity, for it only rounds differently."""

    def to_json(self) -> dict[str, Any]:
        """The settings and the hashes of all weights, as plain values."""
        return {
            "avif_speed": self.avif_speed,
            "judge": self.judge,
            "clip_model": None if self.clip_weights is None else self.clip_model,
            "encoders": {**{name: features.version(name) for name in _ENCODERS}, "jxl": _version("pillow-jxl-plugin")},
            "weights": {name: _hash(path) for name, path in self._weights_files()},
        }

    def _weights_files(self) -> list[tuple[str, Path]]:
        shipped = Path(str(importlib.resources.files("models"))).glob("*.safetensors")
        clip = [] if self.clip_weights is None else [("clip", self.clip_weights)]
        return [*((path.name, path) for path in sorted(shipped)), *clip, *self.weights]


@dataclass
class Tools:
    """The loaded models."""

    settings: Settings
    senders: dict[str, SenderCodec] = field(default_factory=dict)
    """Sending halves of our own codecs that are loaded, by name."""
    receivers: dict[str, ReceiverCodec] = field(default_factory=dict)
    """Receiving halves likewise."""
    clip: ClipScorer | None = None
    """None leaves the CLIP score empty."""
    extractors: dict[str, RelevanceExtractor] = field(default_factory=dict)
    """Those that are loaded, by name."""

    @classmethod
    def load(cls, settings: Settings) -> "Tools":
        """Loads everything but codecs and extractors, which are loaded when they are asked for.

        Raises:
            InvalidInputError: the CLIP model is unknown or its weights are not usable.
        """
        clip = None
        if settings.clip_model is not None and settings.clip_weights is not None:
            clip = ClipScorer.load(settings.clip_model, settings.clip_weights)
        return cls(settings, clip=clip)

    def sender(self, codec: str) -> SenderCodec:
        """The sending half of a codec of ours.

        Raises:
            InvalidInputError: there is none of that name.
            WeightsError: its weights are absent or damaged.
        """
        if codec not in self.senders:
            self.senders[codec] = load_sender(codec)
        return self.senders[codec]

    def receiver(self, codec: str) -> ReceiverCodec:
        """The receiving half; raises as `sender`."""
        if codec not in self.receivers:
            self.receivers[codec] = load_receiver(codec)
        return self.receivers[codec]

    def extractor(self, name: str) -> RelevanceExtractor:
        """The extractor of that name.

        Raises:
            InvalidInputError: there is none of that name.
            WeightsError: its weights are absent or damaged.
        """
        if name not in self.extractors:
            weights = dict(self.settings.weights).get(name)
            self.extractors[name] = load_extractor(name, device=self.settings.device, weights=weights)
        return self.extractors[name]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_DIGITS]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
