"""Which CLIP, and its weights: open_clip's architectures and tags, a local file or the model hub's.

| model | weights file | what is loaded |
|---|---|---|
| `ARCH/TAG` | none | the tag's file, from the hub's cache or the hub |
| `ARCH/TAG` | given | that file, as a copy of the tag's: its colours and its activation |
| `ARCH` | given | that file; colours as CLIP's |

A file is what open_clip writes: a state dict, or a training checkpoint that has one under "state_dict"; as safetensors
or by `torch.save`. Nothing in it is executed, and it must hold the architecture's tensors, all of them and no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance.files import fitted, from_hub, only_tensors, read_checkpoint

DEFAULT_MODEL: Final = "ViT-B-16/openai"
"""The weights that NACLIP was published and measured with (arXiv 2404.08181), small and MIT-licensed; other
weights are not known to work as well with it."""

_ADVICE: Final = (
    "open-clip needs the path of a copy of it, in --weights (mmsc relevance) or "
    "MMSC_TRANSMITTER_OPEN_CLIP_WEIGHTS (transmitter), or another model, in --option"
)
_WRAPPER: Final = "module."
_NOTES: Final = frozenset({"attn_mask", "input_resolution", "context_length", "vocab_size"})
"""What old releases keep among the tensors though it is none of the network's own."""


@dataclass(frozen=True)
class ModelChoice:
    """An architecture of open_clip, and perhaps one of its pretrained tags."""

    architecture: str
    """open_clip's name of it, such as ViT-B-16."""

    tag: str = ""
    """open_clip's name of weights for it, such as openai; "" means none."""

    @classmethod
    def parse(cls, text: str) -> "ModelChoice":
        """Reads ARCH or ARCH/TAG.

        Raises:
            InvalidInputError: open_clip has no such architecture or tag, or no dense features of it are known here.
        """
        architecture, slash, tag = text.partition("/")
        # Asked by name only: open_clip would look for "hf-hub:..." on the network.
        if architecture not in open_clip.list_models() or (slash and not tag):
            known = ", ".join(name for name in open_clip.list_models() if is_plain(open_clip.get_model_config(name)))
            raise InvalidInputError("model", f"{text!r} is not ARCH or ARCH/TAG with ARCH one of: {known}")
        if not is_plain(open_clip.get_model_config(architecture)):
            what = "plain ViTs and ConvNeXts with CLIP's own text tower"
            raise InvalidInputError("model", f"dense features are known of {what}, not of {architecture}")
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tag and not open_clip.is_pretrained_cfg(architecture, tag):
            raise InvalidInputError("model", f"{architecture} has no tag {tag!r}; it has: {', '.join(tags) or 'none'}")
        return cls(architecture, tag)

    @property
    def pretrained(self) -> dict[str, Any]:
        """What open_clip knows about the tag; nothing if there is none."""
        found: dict[str, Any] = open_clip.get_pretrained_cfg(self.architecture, self.tag) if self.tag else {}
        return found

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of red, green and blue, 0 to 1, that the network wants subtracted."""
        red, green, blue = self.pretrained.get("mean", OPENAI_DATASET_MEAN)
        return red, green, blue

    @property
    def deviation(self) -> tuple[float, float, float]:
        """What it wants them divided by."""
        red, green, blue = self.pretrained.get("std", OPENAI_DATASET_STD)
        return red, green, blue

    def __str__(self) -> str:
        return f"{self.architecture}/{self.tag}" if self.tag else self.architecture


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether an architecture has a ViT or ConvNeXt, and CLIP's own text tower and tokenizer.

    The kinds of its parts are checked again once it is built (`dense.dense_head`).
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    own_text = not {"hf_model_name", "hf_tokenizer_name", "pool_type", "embed_cls"} & set(text)
    if not own_text or "custom_text" in config or "multimodal_cfg" in config:
        return False
    if "timm_model_name" in vision:
        return str(vision["timm_model_name"]).startswith("convnext")
    return isinstance(vision["layers"], int) and not {"pool_type", "attentional_pool"} & set(vision)


def load_clip(choice: ModelChoice, path: Path | None = None) -> Any:
    """Builds a CLIP with its weights.

    Args:
        choice: which.
        path: a weights file; none takes what the hub's cache holds, else asks the hub, which has a few seconds to
            answer; `HF_HUB_OFFLINE=1` forbids that.

    Returns:
        open_clip's `CLIP`, in evaluation mode, without gradients, float32 on the CPU.

    Raises:
        InvalidInputError: neither tag nor file are given.
        WeightsError: the file or the hub's copy is absent, damaged, or of another network; it says what helps.
    """
    path = path or _from_hub(choice)
    clip = build(choice)
    state, own = state_of(path), clip.state_dict()
    foreign = sorted(state.keys() - own.keys() - _NOTES)
    tensors = fitted(state, own, path, choice.architecture)
    if foreign:
        raise WeightsError(f"{path}: has {foreign[0]} too; it holds no {choice.architecture}")
    clip.load_state_dict(tensors)
    return clip


def build(choice: ModelChoice) -> nn.Module:
    """The architecture, with random weights."""
    config = open_clip.get_model_config(choice.architecture)
    if choice.pretrained.get("quick_gelu"):
        config["quick_gelu"] = True
    clip: nn.Module = open_clip.CLIP(**config)
    return clip.eval().requires_grad_(requires_grad=False)


def state_of(path: Path) -> dict[str, Tensor]:
    """The tensors of open_clip's files, training checkpoints included, under the network's own names.

    Raises:
        WeightsError: the file is absent or damaged.
    """
    content = read_checkpoint(path)
    inner = content.get("state_dict")
    state = only_tensors(inner if isinstance(inner, dict) else content)
    return {name.removeprefix(_WRAPPER): value for name, value in state.items()}


def _from_hub(choice: ModelChoice) -> Path:
    if not choice.tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(choice.architecture)) or "none"
        raise InvalidInputError("model", f"{choice} needs a weights file, or ARCH/TAG with one of its tags: {tags}")
    place = choice.pretrained.get("hf_hub", "")
    if not place:
        url = choice.pretrained.get("url", "")
        raise WeightsError(f"the hub has no {choice}, only {url or 'nobody'} has; {_ADVICE}")
    return from_hub(*hub_place(place), _ADVICE)


def hub_place(place: str) -> tuple[str, tuple[str, ...]]:
    """Repository and file names of what open_clip writes as "owner/name/" or "owner/name/file"; safetensors first."""
    repository, _, file = place.rpartition("/")
    if not file:
        return repository, (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    safe = str(PurePosixPath(file).with_suffix(".safetensors"))
    return repository, tuple(dict.fromkeys((safe, file)))
