"""The relevance extractors by name, each loaded when it is asked for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.errors import InvalidInputError
from transmitter.relevance.contract import RelevanceExtractor

Loader = Callable[[Path | None, str, Mapping[str, str]], RelevanceExtractor]
"""Weights file (none: the shipped one or the model hub's), device and options to an extractor."""


@dataclass(frozen=True)
class ExtractorEntry:
    """An extractor before it is loaded."""

    summary: str
    """What it is, in one line."""

    load: Loader
    """Loads it; raises InvalidInputError for a device or an option's value, WeightsError for the weights."""

    weights_flag: str
    """The transmitter's option for its weights file."""

    weights_help: str
    """What that option takes."""

    options: Mapping[str, str] = field(default_factory=dict)
    """What else can be chosen, by name, and what each means."""


def load_embedded(path: Path | None = None, device: str = "cpu") -> RelevanceExtractor:
    """Loads the small model that ships with the project.

    Args:
        path: a weights file; none means the shipped one.
        device: "cpu", "cuda", "cuda:1"...

    Raises:
        InvalidInputError: this machine has no such device.
        WeightsError: the file is absent, of another format or version, or damaged.
    """
    # Imported here, as below, so that names and contract can be used without loading torch.
    from transmitter.relevance.devices import usable_device  # noqa: PLC0415
    from transmitter.relevance.embedded import EmbeddedExtractor  # noqa: PLC0415
    from transmitter.relevance.weights import load  # noqa: PLC0415

    return EmbeddedExtractor(load(path), usable_device(device))


def load_vit_attention(path: Path | None = None, device: str = "cpu") -> RelevanceExtractor:
    """Loads the paper's baseline, the CLS attention of DINO's ViT-S/8.

    Args:
        path: a safetensors file with timm's names, or DINO's own .pth; none means the model hub's.
        device: "cpu", "cuda", "cuda:1"...

    Raises:
        InvalidInputError: this machine has no such device.
        WeightsError: the file is absent, damaged or of another network, or the hub gives none.
    """
    from transmitter.relevance.devices import usable_device  # noqa: PLC0415
    from transmitter.relevance.vit_attention import load  # noqa: PLC0415

    return load(path, usable_device(device))


def load_open_clip(
    path: Path | None = None, device: str = "cpu", options: Mapping[str, str] | None = None
) -> RelevanceExtractor:
    """Loads dense features of a plain CLIP.

    Args:
        path: a file of open_clip's; none means the model hub's of the option `model`.
        device: "cpu", "cuda", "cuda:1"...
        options: those that `EXTRACTORS` describes.

    Raises:
        InvalidInputError: this machine has no such device, or an option's value makes no sense.
        WeightsError: the file is absent, damaged or of another network, or the hub gives none.
    """
    from transmitter.relevance.devices import usable_device  # noqa: PLC0415
    from transmitter.relevance.open_clip_dense.extractor import load  # noqa: PLC0415

    return load(path, usable_device(device), options)


def _load_maft_plus(path: Path | None, device: str, options: Mapping[str, str]) -> RelevanceExtractor:
    from transmitter.relevance.devices import usable_device  # noqa: PLC0415
    from transmitter.relevance.maft_plus.extractor import load  # noqa: PLC0415

    return load(path, usable_device(device), options)


DEFAULT_EXTRACTOR: Final = "embedded"
"""What needs nothing but this repository."""

EXTRACTORS: Final[Mapping[str, ExtractorEntry]] = {
    "embedded": ExtractorEntry(
        "free-text relevance by the small model that ships with the project",
        lambda path, device, _: load_embedded(path, device),
        "--relevance-weights",
        "Weights of the embedded extractor.",
    ),
    "vit-attention": ExtractorEntry(
        "CLS attention of DINO's ViT-S/8, the paper's baseline; ignores the query",
        lambda path, device, _: load_vit_attention(path, device),
        "--vit-weights",
        "Weights of vit-attention: DINO's .pth or timm's safetensors file; the model hub's where none is given.",
    ),
    "maft-plus": ExtractorEntry(
        "MAFT+ (ECCV 2024), the paper's own; needs an official checkpoint",
        _load_maft_plus,
        "--maft-weights",
        "Weights of maft-plus: an official .pth, or what `mmsc weights convert` made of it.",
        {
            "convention": "reading of eq. 7: relevancy, raw, unit-v or cosine",
            "short-side": "pixels that the short side is scaled to, or native",
            "precision": "of the large matrices: fp32, bf16 or fp16",
            "variant": "what the weights must be: large, base or panoptic-large",
        },
    ),
    "open-clip": ExtractorEntry(
        "free-text relevance by a plain OpenCLIP, ViT or ConvNeXt; for users who have no MAFT+ file",
        load_open_clip,
        "--open-clip-weights",
        "Weights of open-clip: open_clip's safetensors, .bin or .pt file of the option open-clip.model; the model "
        "hub's where none is given.",
        {
            "model": "ARCH/TAG of open_clip, or ARCH with a weights file; ViT-B-16/openai",
            "short-side": "what the picture's short side is scaled to, in pixels; 336 for a ViT, 448 for a ConvNeXt",
            "neighbourhood": "how far a ViT's patches look, in patches; 5",
            "refine": "whether the map's edges follow the picture's, yes or no; yes",
            "precision": "what a GPU computes in: fp32, bf16 or fp16; fp32",
        },
    ),
}
"""Every extractor by the name that requests and options use."""


def load_extractor(
    name: str, *, device: str = "cpu", weights: Path | None = None, options: Mapping[str, str] | None = None
) -> RelevanceExtractor:
    """Loads an extractor.

    Args:
        name: one of `EXTRACTORS`.
        device: "cpu", "cuda", "cuda:1"...
        weights: its weights file; none means the shipped one or, where none is shipped, the model hub's.
        options: values of some of its `ExtractorEntry.options`; the rest keep their defaults.

    Raises:
        InvalidInputError: there is no extractor of that name or no such option, a value makes no sense, or this
            machine has no such device.
        WeightsError: the weights are absent, damaged, or of something else.
    """
    if name not in EXTRACTORS:
        raise InvalidInputError("extractor", f"unknown extractor {name!r}; there are: {', '.join(EXTRACTORS)}")
    entry, options = EXTRACTORS[name], options or {}
    for option in options:
        if option not in entry.options:
            known = f"it has: {', '.join(entry.options)}" if entry.options else "it has none"
            raise InvalidInputError("option", f"{name} has no option {option!r}; {known}")
    return entry.load(weights, device, options)


def parse_options(pairs: Iterable[str]) -> dict[str, str]:
    """Reads KEY=VALUE pairs; of a key that comes twice the last counts.

    Raises:
        InvalidInputError: a pair has no = or no key.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidInputError("option", f"{pair!r} is not KEY=VALUE")
        options[key.strip()] = value.strip()
    return options


def parse_named_options(pairs: Iterable[str]) -> dict[str, dict[str, str]]:
    """Reads NAME.KEY=VALUE pairs into the options of each extractor.

    Raises:
        InvalidInputError: a pair is of another form, or names no extractor.
    """
    found: dict[str, dict[str, str]] = {}
    for key, value in parse_options(pairs).items():
        name, dot, option = key.partition(".")
        if not dot or name not in EXTRACTORS:
            raise InvalidInputError("option", f"{key!r} is not NAME.KEY with NAME one of {', '.join(EXTRACTORS)}")
        found.setdefault(name, {})[option] = value
    return found
