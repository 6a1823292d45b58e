"""Where a training begins: CLIP from open_clip and a fresh head, or a MAFT+ that is to learn more."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import open_clip
import torch
from torch import Tensor

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.files import fitted, from_hub, only_tensors, read_checkpoint
from transmitter.relevance.maft_plus.checkpoint import read
from transmitter.relevance.maft_plus.config import BASE, LARGE, MaftConfig
from transmitter.relevance.maft_plus.model import MaftPlus

Variant = Literal["large", "base"]

RANDOM: Final = "random"
"""In the place of a tag or a file: no weights at all."""

_CONFIGS: Final[Mapping[str, MaftConfig]] = {"large": LARGE, "base": BASE}
_CLIPS: Final = {"large": "convnext_large_d_320", "base": "convnext_base_w_320"}
_TAGS: Final = {"large": "laion2b_s29b_b131k_ft_soup", "base": "laion_aesthetic_s13b_b82k_augreg"}
_HUB_FILES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_ADVICE: Final = "fetch it elsewhere and give the file to --init"

_WORDS: Final = 49_408
"""Tokens of CLIP's tokenizer."""

_HEAD: Final = "sem_seg_head."
_STEM: Final = "visual.trunk.stem.0.weight"
_STUDENT, _TEACHER = "backbone.", "backbone_t."


def start_model(init: str | None, variant: Variant | None) -> MaftPlus:
    """Builds the model that a training begins with, its teacher included.

    Args:
        init: an open_clip tag, the file of a CLIP or of a MAFT+ (its sizes count then), `RANDOM`, or None for the
            tag that the paper began with. Where a MAFT+ file has no teacher, its own CLIP is the teacher.
        variant: which MAFT+; None takes what the file holds, or Large.

    Raises:
        InvalidInputError: there is no such tag, or a CLIP's file holds another variant.
        WeightsError: the weights cannot be had, or are damaged or foreign, or a MAFT+ file holds another variant.
    """
    kind: Variant = variant or "large"
    if init == RANDOM:
        return _with_clip(MaftPlus(_CONFIGS[kind], teacher=True), None)
    if init is None or not Path(init).is_file():
        path = _fetched(kind, init or _TAGS[kind])
        return _of_clip(only_tensors(read_checkpoint(path)), path, kind)
    path = Path(init)
    content = read_checkpoint(path)
    inner = next((content[name] for name in ("model", "state_dict") if isinstance(content.get(name), dict)), content)
    state = only_tensors(inner)
    if any(name.startswith(_HEAD) for name in state):
        return _of_maft(state, path, variant)
    return _of_clip({name.removeprefix("module."): value for name, value in state.items()}, path, variant)


def _fetched(variant: Variant, tag: str) -> Path:
    """The CLIP of a tag, from the hub or its cache."""
    name = _CLIPS[variant]
    known = open_clip.list_pretrained_tags_by_model(name)
    if tag not in known:
        told = f"{tag!r} is neither a file nor one of {name}'s tags: {', '.join(known)}"
        raise InvalidInputError("init", told)
    repository = str(open_clip.get_pretrained_cfg(name, tag)["hf_hub"]).rstrip("/")
    return from_hub(repository, _HUB_FILES, _ADVICE)


def _of_clip(state: dict[str, Tensor], path: Path, variant: Variant | None) -> MaftPlus:
    if _STEM not in state:
        raise WeightsError(f"{path}: holds neither a MAFT+ nor an open_clip model with a ConvNeXt")
    channels = state[_STEM].shape[0]
    fitting: list[Variant] = [kind for kind in ("large", "base") if _CONFIGS[kind].trunk_dims[0] == channels]
    if not fitting or variant not in {None, fitting[0]}:
        told = f"{path} holds {fitting[0] if fitting else f'{channels} channels, neither'}"
        raise InvalidInputError("variant", f"{told}, not {variant or 'large or base'}")
    model = MaftPlus(_CONFIGS[fitting[0]], teacher=True)
    own = fitted(state, model.backbone.clip_model.state_dict(), path, f"CLIP of MAFT+ {fitting[0]}")
    return _with_clip(model, own)


def _with_clip(model: MaftPlus, state: dict[str, Tensor] | None) -> MaftPlus:
    """Student and teacher begin alike."""
    if state is not None:
        model.backbone.clip_model.load_state_dict(state)
    assert model.backbone_t is not None
    model.backbone_t.load_state_dict(model.backbone.state_dict())
    return model


def _of_maft(state: dict[str, Tensor], path: Path, variant: Variant | None) -> MaftPlus:
    found = read(path, variant or "")
    model = MaftPlus(found.config, teacher=True)
    own = {name: value for name, value in state.items() if name.startswith(_TEACHER)}
    taught = {
        _TEACHER + name.removeprefix(_STUDENT): value
        for name, value in found.state.items()
        if name.startswith(_STUDENT)
    }
    model.load_state_dict(fitted({**found.state, **taught, **own}, model.state_dict(), path, "MAFT+"))
    return model


def text_encoder(model: MaftPlus) -> Callable[[list[str]], Tensor]:
    """Prompts to (prompts, channels), on the model's device.

    Raises:
        InvalidInputError: the text tower knows fewer words than CLIP's tokenizer.
    """
    if model.config.vocab_size < _WORDS:
        raise InvalidInputError("init", f"its text tower knows {model.config.vocab_size} tokens only")

    @torch.no_grad()
    def encode(prompts: list[str]) -> Tensor:
        tokens: Tensor = open_clip.tokenize(prompts, model.config.context_length)
        return model.backbone.encode_text(tokens.to(model.void_embedding.weight.device))

    return encode
