"""MAFT+ for inference: what equation 7 needs, and nothing else.

Against `MaftPlus.forward`, which computes every prediction and carries gradients:

- a picture is looked at once (`look`), however many queries there are (`adapt`);
- between the decoder's layers, masks are wanted as places to block only, so that they are computed at the size of the
  next layer's map, from E_pixel resized once (resizing is linear: the resized product is the product with the resized);
- no in-vocabulary head, no class logits, no teacher;
- prompts are a tree (`text_tower`), matrices and deformable attention as in `kernels`, the trunk channels last.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from shared.errors import InvalidInputError
from transmitter.relevance.maft_plus.classification import pool_masks, scrambled
from transmitter.relevance.maft_plus.clip import ClipFeatures
from transmitter.relevance.maft_plus.config import LEVELS, SIZE_STEP
from transmitter.relevance.maft_plus.kernels import attention, linear, perceptron, sample
from transmitter.relevance.maft_plus.mask_decoder import Memory, blocked_places, masks_of, resize
from transmitter.relevance.maft_plus.model import MaftPlus
from transmitter.relevance.maft_plus.pixel_decoder import EncoderTokens, PixelFeatures, level_maps
from transmitter.relevance.maft_plus.text_tower import encode_prompts
from transmitter.relevance.maft_plus.trunk import projected, trunk_features

Precision = Literal["fp32", "bf16", "fp16"]
"""Of the trunk's and the text tower's matrices; everything else is computed in fp32."""

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


Pool = Callable[[Tensor, Tensor], Tensor]
"""(batch, channels, h, w) and mask logits to (batch, queries, channels)."""


class Seen(NamedTuple):
    """What the network makes of a batch of pictures, whatever is asked for."""

    visual: Tensor
    """V, (batch, queries, embed_dim), not of unit length."""
    masks: Tensor
    """(batch, queries, h / 4, w / 4): logits."""
    transfer: Tensor
    """(batch, embed_dim, h / 32, w / 32): what texts look at in `adapt`."""


class MaftInference:
    """The short way through a model; its weights are laid out anew in place.

    Args:
        model: on its device; goes to eval mode and is not to be trained afterwards.
        precision: of the large matrices.
        pool: means of the trunk's last map over masks; `pool_masks` is the original's.
        compiled: whether torch's compiler joins `look` into few kernels, replayed as a CUDA graph on a GPU. The first
            batch of every new shape then takes minutes at full size, and on a CPU a C++ compiler. It is one graph,
            but its speed on a GPU has not been measured; off by default.
    """

    def __init__(
        self, model: MaftPlus, *, precision: Precision = "fp32", pool: Pool = pool_masks, compiled: bool = False
    ) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False)
        self._pool = pool
        self._pixel: Any = model.sem_seg_head.pixel_decoder
        self._predictor: Any = model.sem_seg_head.predictor
        self._clip: Any = model.backbone.clip_model
        for part in (self._clip.visual.trunk, self._pixel):
            part.to(memory_format=torch.channels_last)
        if precision != "fp32":
            _lower(self._clip.transformer, _DTYPES[precision])
            _lower(self._clip.visual.trunk.stages, _DTYPES[precision])
        self._run: Callable[[Tensor], Seen] = self._look
        if compiled:
            self._run = torch.compile(self._look, mode="reduce-overhead", dynamic=False, fullgraph=True)
        self._compiled = compiled

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.void_embedding.weight.device

    @torch.inference_mode()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """Prompts to (prompts, embed_dim), not normalised; tokens (prompts, context) int64, ids of open_clip."""
        return encode_prompts(self._clip, tokens)

    @torch.inference_mode()
    def look(self, images: Tensor) -> Seen:
        """Segments pictures.

        Args:
            images: (batch, 3, h, w) on the model's device, as from `normalise_and_pad`.

        Raises:
            InvalidInputError: not of that shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % SIZE_STEP or images.shape[3] % SIZE_STEP:
            raise InvalidInputError("images", f"not (batch, 3, h, w) in steps of {SIZE_STEP}: {tuple(images.shape)}")
        seen = self._run(images)
        # What a CUDA graph gives is overwritten by its next run.
        return Seen(*(part.clone() for part in seen)) if self._compiled else seen

    def _look(self, images: Tensor) -> Seen:
        features = trunk_features(self._clip.visual.trunk, images)
        dense, pixels = features.res5, self._pixels(features)
        # The finer maps are large, and not needed any more.
        del features
        masks = self._masks(pixels)
        pooled, tokens = self._pool(dense, masks), scrambled(dense)
        batch, rows, columns, channels = tokens.shape
        # One product for both: the head's weights are read once.
        both = torch.cat([pooled, tokens.view(batch, -1, channels)], 1)
        visual, transfer = torch.split(projected(self._clip.visual, both), [pooled.shape[1], rows * columns], 1)
        return Seen(visual, masks, transfer.transpose(1, 2).reshape(batch, -1, rows, columns))

    @torch.inference_mode()
    def adapt(self, texts: Tensor, seen: Seen) -> Tensor:
        """T_hat: any number of texts adapted to each picture, each by itself.

        Args:
            texts: (texts, embed_dim), unit length.
            seen: the pictures.

        Returns:
            (batch, texts, embed_dim), not of unit length.
        """
        adapted: Tensor = self.model.cdt(texts, seen.transfer)
        return adapted

    def logit_scale(self) -> float:
        """The factor that turns cosines into logits, at most 100."""
        return float(self.model.backbone.logit_scale())

    def _pixels(self, features: ClipFeatures) -> PixelFeatures:
        tokens: EncoderTokens = self._pixel.tokens(features)
        x = tokens.source
        for layer in self._pixel.transformer.encoder.layers:
            x = _encoder_layer(layer, x, tokens)
        coarse, middle, fine = level_maps(x, tokens.sizes)
        return PixelFeatures((coarse, middle, fine), self._pixel.mask_features(self._joined(fine, features.res2)))

    def _joined(self, fine: Tensor, res2: Tensor) -> Tensor:
        """As `PixelDecoder.joined`, in place where it can be: at stride 4 every map is large."""
        lateral = self._pixel.adapter_1(res2)
        lateral += resize(fine, res2.shape[2:])
        joined: Tensor = self._pixel.layer_1(lateral)
        return joined.relu_()

    def _masks(self, pixels: PixelFeatures) -> Tensor:
        """The final mask logits."""
        decoder = self._predictor
        memories: list[Memory] = decoder.memories(pixels)
        resized = [resize(pixels.pixel, level.shape[2:]) for level in pixels.memories]
        x = decoder.start(len(pixels.pixel))
        for index in range(len(decoder.transformer_ffn_layers)):
            blocked = blocked_places(masks_of(self._mask_embed(x), resized[index % LEVELS]))
            x = self._decoder_layer(index, x, memories[index % LEVELS], blocked)
        return masks_of(self._mask_embed(x), pixels.pixel)

    def _mask_embed(self, x: Tensor) -> Tensor:
        first, second, last = self._predictor.mask_embed.layers
        return linear(last, linear(second, linear(first, self._predictor.decoder_norm(x), "relu"), "relu"))

    def _decoder_layer(self, index: int, x: Tensor, memory: Memory, blocked: Tensor) -> Tensor:
        decoder, embed = self._predictor, self._predictor.query_embed.weight
        allowed = ~blocked | blocked.all(-1, keepdim=True)
        cross = decoder.transformer_cross_attention_layers[index]
        x = cross.norm(x + _attended(cross.multihead_attn, (x + embed, memory.key, memory.value), allowed))
        among = decoder.transformer_self_attention_layers[index]
        placed = x + embed
        x = among.norm(x + _attended(among.self_attn, (placed, placed, x), None))
        forward = decoder.transformer_ffn_layers[index]
        y: Tensor = forward.norm(x + perceptron(forward.linear1, forward.linear2, x, "relu"))
        return y


def _attended(module: Any, inputs: tuple[Tensor, Tensor, Tensor], allowed: Tensor | None) -> Tensor:
    return attention((module.in_proj_weight, module.in_proj_bias), module.out_proj, module.heads, inputs, allowed)


def _encoder_layer(layer: Any, x: Tensor, tokens: EncoderTokens) -> Tensor:
    x = layer.norm1(x + _sampled(layer.self_attn, x, tokens))
    y: Tensor = layer.norm2(x + perceptron(layer.linear1, layer.linear2, x, "relu"))
    return y


def _sampled(attend: Any, x: Tensor, tokens: EncoderTokens) -> Tensor:
    query = x + tokens.position
    values = linear(attend.value_proj, x).view(*x.shape[:2], attend.heads, -1)
    offsets, weights = attend.offsets(query, linear), attend.weights(query, linear)
    read = sample(values, tokens.reference, offsets, weights, tokens.sizes)
    return linear(attend.output_proj, read)


def _lower(module: nn.Module, dtype: torch.dtype) -> None:
    """Gives the matrices and convolutions of a module less precision; its norms keep theirs."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            part.to(dtype)
