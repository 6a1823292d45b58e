"""Which weights there are: those that ship with the project, and those that one fetches or gets by hand.

Nothing here needs torch; open_clip's own table says the same of its models (`tests/test_weights_cli.py` compares).
"""

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OPEN_CLIP_FILES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What open_clip's repositories call their weights, the safer one first."""

MAFT_PLUS_SOURCE: Final = "Google Drive, linked from https://github.com/jiaosiyu1999/MAFT-Plus"
"""Where the authors of MAFT+ publish it; there is no other place."""


@dataclass(frozen=True)
class KnownWeights:
    """Weights of somebody else that an extractor can use."""

    name: str
    """What `mmsc weights fetch` calls them."""

    serves: str
    """The extractor, and what it makes of them."""

    files: tuple[str, ...]
    """What the file is called, the first that there is counts."""

    repository: str = ""
    """Of the model hub, "owner/name"; empty where the hub has none."""

    by_hand: str = ""
    """Where else they are; empty where the hub has them."""


_LARGE_CLIP: Final = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
_BASE_CLIP: Final = "laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg"

KNOWN: Final = (
    KnownWeights(
        "maft-plus-large",
        "maft-plus, the paper's model",
        ("maftp_l.safetensors", "maftp_l.pth"),
        by_hand=MAFT_PLUS_SOURCE,
    ),
    KnownWeights(
        "maft-plus-base",
        "maft-plus, half the size",
        ("maftp_b.safetensors", "maftp_b.pth"),
        by_hand=MAFT_PLUS_SOURCE,
    ),
    KnownWeights(
        "maft-plus-panoptic-large",
        "maft-plus, trained on panoptic COCO",
        ("maftp_l_pano.safetensors", "maftp_l_pano.pth"),
        by_hand=MAFT_PLUS_SOURCE,
    ),
    KnownWeights(
        "convnext_large_d_320/laion2b_s29b_b131k_ft_soup",
        "open-clip; what MAFT+ Large is trained from",
        OPEN_CLIP_FILES,
        _LARGE_CLIP,
    ),
    KnownWeights(
        "convnext_base_w_320/laion_aesthetic_s13b_b82k_augreg",
        "open-clip; what MAFT+ Base is trained from",
        OPEN_CLIP_FILES,
        _BASE_CLIP,
    ),
    KnownWeights("ViT-B-16/openai", "open-clip, its default", OPEN_CLIP_FILES, "timm/vit_base_patch16_clip_224.openai"),
    KnownWeights("ViT-B-16/laion2b_s34b_b88k", "open-clip", OPEN_CLIP_FILES, "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
    KnownWeights("ViT-L-14/openai", "open-clip, larger", OPEN_CLIP_FILES, "timm/vit_large_patch14_clip_224.openai"),
    KnownWeights(
        "vit_small_patch8_224.dino",
        "vit-attention",
        ("model.safetensors",),
        "timm/vit_small_patch8_224.dino",
    ),
)
"""All of them, in the order in which they are listed."""


def known_weights(name: str) -> KnownWeights | None:
    """The weights of a name, or None."""
    return next((known for known in KNOWN if known.name == name), None)


def shipped_files() -> list[Path]:
    """The weights files that come with the project."""
    folder = Path(str(importlib.resources.files("models")))
    return sorted(folder.glob("*.safetensors"))


def local_file(known: KnownWeights, folder: Path) -> Path | None:
    """Where weights already are: in a folder if they are got by hand, else in the model hub's cache."""
    if not known.repository:
        places = (folder / file for file in known.files)
        return next((place for place in places if place.is_file()), None)
    import huggingface_hub  # noqa: PLC0415 - names and files of ours are told without it

    found = (huggingface_hub.try_to_load_from_cache(known.repository, file) for file in known.files)
    return next((Path(path) for path in found if isinstance(path, str)), None)
