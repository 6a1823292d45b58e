"""Weights of MAFT+: the official checkpoints as they are published, and safetensors files of our own.

```
maftp_l.pth ({key: tensor} or {"model": ...}) ─┐
                                               ├─ read ─ variant from shapes ─ every key and shape checked ─ load
maftp_l.safetensors (`mmsc weights convert`) ──┘
```
What only training needs (the teacher `backbone_t.*`, the loss's buffer `criterion.*`) may be there or not and is left
out. Tensors are mapped from the file and become the model's own without a copy, so that a model is never held twice;
a file must not be overwritten while a process uses it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.errors import WeightsError
from transmitter.relevance.files import check_finite, first_line, only_tensors, read_checkpoint
from transmitter.relevance.maft_plus.config import BASE, LARGE, MaftConfig, config_of
from transmitter.relevance.maft_plus.model import MaftPlus

FORMAT: Final = "mmsc-maft-plus-1"
"""Format and version tag in the metadata of our own files."""

VARIANTS: Final[Mapping[str, MaftConfig]] = {
    "large": LARGE,
    "base": BASE,
    "panoptic-large": replace(LARGE, panoptic=True),
}
"""The official models by name."""

OFFICIAL_FILES: Final[Mapping[str, str]] = {
    "large": "maftp_l.pth",
    "base": "maftp_b.pth",
    "panoptic-large": "maftp_l_pano.pth",
}
"""What the authors call their files."""

CUSTOM: Final = "custom"
"""The variant of a model of other sizes, which only a file of our own can hold."""

_TRAINING_ONLY: Final = ("backbone_t.", "criterion.")
_LOSS_CLASSES: Final = "criterion.empty_weight"
_PANOPTIC_CLASSES: Final = {134: True, 172: False}
"""Classes of COCO panoptic and of COCO-Stuff, void included."""

_SHOWN: Final = 3
_TELLING: Final = (
    "void_embedding.weight",
    "sem_seg_head.predictor.class_embed.layers.2.weight",
    "backbone.clip_model.text_projection",
    "cdt.cross_atten.norm.weight",
)
"""Tensors of which one side is embed_dim, the size that tells the variants apart; whichever is there."""


@dataclass(frozen=True)
class Checkpoint:
    """A weights file that fits its variant, not yet a model."""

    path: Path
    variant: str
    """A name of `VARIANTS`, or `CUSTOM`."""
    config: MaftConfig
    state: dict[str, Tensor]
    """What inference needs, by official key, mapped from the file."""
    left_out: int
    """Tensors that only training needs."""


def read(path: Path, variant: str = "") -> Checkpoint:
    """Reads a file and compares every key and shape with those of its variant; no value is looked at.

    Args:
        path: an official .pth file, flat or with its tensors under "model", or a file that `write` made.
        variant: a name of `VARIANTS`; empty tells it from shapes and, where the loss's buffer is not there to tell
            the panoptic model, from "pano" in the file's name.

    Raises:
        WeightsError: the file is absent, cut off, damaged, holds code or something else, or is of another variant;
            what is missing, not known or of another shape is named.
    """
    content = read_checkpoint(path)
    wrapped = content.get("model")
    tensors = only_tensors(wrapped if isinstance(wrapped, dict) else content)
    state = {key: value for key, value in tensors.items() if not key.startswith(_TRAINING_ONLY)}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    name, config = _own_config(path, shapes) or _official(path, tensors, variant)
    if variant and name != variant:
        raise WeightsError(f"{path}: holds the {name} variant, not {variant}")
    _compare(path, shapes, config, name)
    for key, value in state.items():
        if not value.is_floating_point():
            raise WeightsError(f"{path}: {key} is {str(value.dtype).removeprefix('torch.')}, not floating point")
    return Checkpoint(path, name, config, state, len(tensors) - len(state))


def load(path: Path, variant: str = "") -> MaftPlus:
    """Reads a file into a model, in single precision on the CPU, for inference.

    Args:
        path: as of `read`.
        variant: as of `read`.

    Raises:
        WeightsError: as of `read`, or a value is not finite.
    """
    return model_of(read(path, variant))


def model_of(checkpoint: Checkpoint) -> MaftPlus:
    """The model of a checkpoint, in single precision, for inference.

    Raises:
        WeightsError: a value is not finite.
    """
    check_finite(checkpoint.state, checkpoint.path)
    model = _unfilled(checkpoint.config)
    model.load_state_dict({key: value.float() for key, value in checkpoint.state.items()}, strict=True, assign=True)
    clip = model.backbone.clip_model
    # The one buffer that no file holds: text tokens do not look ahead.
    clip.attn_mask = torch.full(clip.attn_mask.shape, -torch.inf).triu_(1)
    return model.eval().requires_grad_(requires_grad=False)


def write(path: Path, state: Mapping[str, Tensor], config: MaftConfig, notes: Mapping[str, str]) -> None:
    """Writes a safetensors file that `read` accepts; whatever was there is replaced in one step.

    Args:
        path: the file.
        state: a `MaftPlus` state_dict; what only training needs is left out.
        config: its sizes.
        notes: further metadata.

    Raises:
        WeightsError: the tensors are not those of the configuration, or the file cannot be written.
    """
    own = {key: value.detach().contiguous() for key, value in state.items() if not key.startswith(_TRAINING_ONLY)}
    _compare(path, {key: tuple(value.shape) for key, value in own.items()}, config, variant_of(config))
    settings = {"mmsc_format": FORMAT, "variant": variant_of(config), "config": json.dumps(asdict(config))}
    part = path.with_name(f".{path.name}.part")
    try:
        safetensors.torch.save_file(own, part, metadata={**notes, **settings})
        _order_metadata(part)
        part.chmod(0o644)  # the library makes files that nobody else may read
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise WeightsError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _order_metadata(path: Path) -> None:
    """Sorts the metadata of a safetensors file in place; the library's own order is by chance, and changes the hash."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) <= size:
            file.seek(8)
            file.write(ordered.ljust(size))


def variant_of(config: MaftConfig) -> str:
    """The name of a configuration: of `VARIANTS`, or `CUSTOM`."""
    return next((name for name, known in VARIANTS.items() if known == config), CUSTOM)


def notes_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; nothing of any other."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _own_config(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, MaftConfig] | None:
    """What a file of our own holds: sizes by its shapes, and from its metadata what no shape tells."""
    notes = notes_of(path)
    if "mmsc_format" not in notes:
        return None
    if notes["mmsc_format"] != FORMAT:
        raise WeightsError(f"{path}: holds format {notes['mmsc_format']!r}, not {FORMAT!r}")
    try:
        told = json.loads(notes["config"])
        heads = {name: max(1, int(told[name])) for name in ("heads", "text_heads", "cdt_heads")}
        config = config_of(shapes, **heads, panoptic=bool(told["panoptic"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its metadata tells no configuration ({first_line(error)})") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return variant_of(config), config


def _official(path: Path, tensors: Mapping[str, Tensor], wanted: str) -> tuple[str, MaftConfig]:
    """The official model that a file without metadata holds."""
    known = {config.embed_dim: name for name, config in VARIANTS.items() if not config.panoptic}
    width = next((int(tensors[key].shape[-1]) for key in _TELLING if key in tensors and tensors[key].ndim), None)
    if width is None:
        raise WeightsError(f"{path}: holds no MAFT+; of its {_tensors(len(tensors))} none has a name of it")
    if width not in known:
        sizes = " or ".join(f"{size} ({name})" for size, name in known.items())
        raise WeightsError(f"{path}: its texts have {width} dimensions, those of an official MAFT+ {sizes}")
    name = known[width]
    panoptic = f"panoptic-{name}"
    if panoptic in VARIANTS and _is_panoptic(path, tensors, name, wanted):
        name = panoptic
    return name, VARIANTS[name]


def _is_panoptic(path: Path, tensors: Mapping[str, Tensor], name: str, wanted: str) -> bool:
    """Whether a model of panoptic shapes is one; its loss's buffer knows, else the caller, else the file's name."""
    buffer = tensors.get(_LOSS_CLASSES)
    if buffer is not None and buffer.numel() in _PANOPTIC_CLASSES:
        return _PANOPTIC_CLASSES[buffer.numel()]
    if wanted in (name, f"panoptic-{name}"):
        return wanted != name
    return "pano" in path.stem.lower()


def _unfilled(config: MaftConfig) -> MaftPlus:
    """A model that takes no memory yet."""
    with torch.device("meta"):
        return MaftPlus(config)


def _compare(path: Path, shapes: Mapping[str, tuple[int, ...]], config: MaftConfig, name: str) -> None:
    """Compares keys and shapes with those of a model that is built without memory."""
    try:
        wanted = {key: tuple(value.shape) for key, value in _unfilled(config).state_dict().items()}
    except (AssertionError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: there is no MAFT+ of its sizes ({first_line(error)})") from error
    missing = [key for key in wanted if key not in shapes]
    unknown = [key for key in shapes if key not in wanted]
    misshapen = [
        f"{key} {shapes[key]} instead of {wanted[key]}"
        for key in wanted
        if key in shapes and shapes[key] != wanted[key]
    ]
    kinds = {"missing": missing, "not known": unknown, "of another shape": misshapen}
    flaws = [f"{_listed(found)} {kind}" for kind, found in kinds.items() if found]
    if flaws:
        raise WeightsError(f"{path}: does not fit MAFT+ {name}: {'; '.join(flaws)}")


def _listed(names: list[str]) -> str:
    """The first few and how many there are, as in "7 tensors (a, b, c...)"."""
    dots = "..." if len(names) > _SHOWN else ""
    return f"{_tensors(len(names))} ({', '.join(names[:_SHOWN])}{dots})"


def _tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"
