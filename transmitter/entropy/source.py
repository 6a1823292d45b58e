"""A picture and what is asked for in it, made ready for planning: everything that does not depend on the setting."""

from typing import Final

import numpy as np
from PIL import Image

from shared.arrays import Float32Array, UInt8Array
from shared.codec.entropy.background import Background, thumbnail, thumbnail_halved
from shared.codec.entropy.codec import EntropyCodec
from shared.codec.entropy.context import quantiser_steps
from shared.codec.entropy.levels import HALF_OCTAVE
from shared.packets import max_sketch_bytes
from shared.patches import PATCH_SIZE, PatchGrid, split
from transmitter.entropy.edges import Edges
from transmitter.entropy.levels import ideal_offsets, relative_offsets
from transmitter.entropy.settings import COARSEST, EXACT_BELOW, OUTSIDE, Allotment, Source
from transmitter.importance import patch_importance

_REACH: Final = 6  # offsets told apart; what lies beyond is of no importance
_EDGE_COST: Final = 2.75  # half octaves: patches at a mask's edge are sent in full or not at all
_OUTSIDE_MERIT: Final = (COARSEST - EXACT_BELOW + 1) / HALF_OCTAVE
_PRICE_REACH: Final = 2.0  # half octaves that a price may make up for
_NOTHING: Final = 1e-6
_SMOOTHNESS: Final = 2.0
_LAYER_BITS: Final = 1.33  # per octave of signal over step, squared; measured on photos
_HALVED_MORE: Final = 1.16  # a layer of half the size takes so much more than guessed, over one of the full size
_SURELY_MORE: Final = 1.08
_LAYERS: Final = ((124, True), (116, True), (124, False), (116, False), (108, False))


def prepare(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, layer_bytes: int) -> Source:
    """Everything about a picture that does not depend on the setting, with a background layer in so many bytes."""
    background = background_within(codec, image, layer_bytes)
    return _prepared(codec, image, relevance, background)


def prepare_over(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, layer: bytes) -> Source:
    """As `prepare`, over a background layer that is there already.

    Raises:
        StreamError: the layer is of another picture, or damaged.
    """
    return _prepared(codec, image, relevance, Background(layer, codec.background(layer, PatchGrid.of(image))))


def _prepared(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, background: Background) -> Source:
    grid, patches, (layer, colours) = PatchGrid.of(image), split(image), background
    edges = _edges(relevance, colours, grid) if _is_mask(relevance) else None
    coefficients = codec.lossy.transform.analyse(edges.continued(patches) if edges else patches)
    return Source(patches, coefficients, *allotted(relevance, grid), edges, grid, layer, codec.expected_means(colours))


def allotted(relevance: Float32Array, grid: PatchGrid) -> Allotment:
    """What each patch gets.

    A mask has but an inside and an outside, which waits until the inside is exact; a patch at its edge is as fine as
    those within, or left out where too little of it lies inside. Of a soft map, every patch has what it deserves, in
    a map that is worth its bytes; where that is not quite the quantiser it would ideally have, the price of its bits
    makes up for it.
    """
    importance = patch_importance(relevance)
    if not importance.any():
        return Allotment(np.zeros(grid.count, np.int64), np.zeros(grid.count), np.ones(grid.count))
    if _is_mask(relevance):
        return _inside(importance)
    offsets = relative_offsets(importance, grid, reach=_REACH, smoothness=_SMOOTHNESS)
    coarser = np.clip(ideal_offsets(importance) - offsets, -_PRICE_REACH, _PRICE_REACH)
    return Allotment(offsets, offsets.astype(np.float64), np.exp2(coarser))


def _inside(importance: Float32Array) -> Allotment:
    """Of a mask; (grid.count,) `importance` is how much of each patch lies inside."""
    inside = importance > 0
    ideal = np.log2(importance.max() / np.maximum(importance, _NOTHING))
    merits = np.where(inside, np.where(ideal > 0, ideal + _EDGE_COST, 0), _OUTSIDE_MERIT)
    return Allotment(np.where(inside, 0, OUTSIDE), merits, np.ones(len(importance)))


def _is_mask(relevance: Float32Array) -> bool:
    return bool(((relevance == 0) | (relevance == relevance.max())).all() and relevance.any())


def _edges(relevance: Float32Array, colours: UInt8Array, grid: PatchGrid) -> Edges:
    inside = split(relevance[:, :, None] > 0)[..., 0]
    numbers = np.flatnonzero(inside.any(axis=(1, 2)) & ~inside.all(axis=(1, 2)))
    return Edges(numbers, inside[numbers], split(_enlarged(colours, grid))[numbers])


def _enlarged(colours: UInt8Array, grid: PatchGrid) -> UInt8Array:
    """(height, width, 3) picture of (grid.count, 3) colours, one per patch, smoothly."""
    small = Image.fromarray(colours.reshape(grid.rows, grid.columns, -1))
    size = (grid.columns * PATCH_SIZE, grid.rows * PATCH_SIZE)
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))[: grid.height, : grid.width]


def background_within(codec: EntropyCodec, image: UInt8Array, limit_bytes: int) -> Background:
    """The finest background layer within a number of bytes; empty where even the coarsest takes more.

    The search begins with the one that a guess of the bytes says, and mostly ends with the next.
    """
    small = thumbnail(image)
    limit_bytes = min(limit_bytes, max_sketch_bytes(PatchGrid.of(image).count))
    guesses = _guessed_layers(codec, small)
    best, low, high, scale = Background(b"", codec.background(b"", PatchGrid.of(image))), 0, len(_LAYERS), 1.0
    while low < high:
        fitting = [number for number in range(low, high) if guesses[number] * scale <= limit_bytes]
        number = max(fitting, default=low)
        quality, halved = _LAYERS[number]
        found = codec.encode_background(small, quality, halved=halved)
        if len(found.layer) <= limit_bytes:
            best, low = found, number + 1
        else:
            high = number
        scale = len(found.layer) / guesses[number]
        if low < high and guesses[low] * scale > _SURELY_MORE * limit_bytes:
            break
    return best


def _guessed_layers(codec: EntropyCodec, small: UInt8Array) -> list[float]:
    """About how many bytes each of the layers takes."""
    transform = codec.lossy.transform
    found = {halved: transform.analyse(split(thumbnail_halved(small) if halved else small)) for halved in (True, False)}
    return [_guessed_bytes(found[halved], quality) * (_HALVED_MORE if halved else 1) for quality, halved in _LAYERS]


def _guessed_bytes(coefficients: Float32Array, quality: int) -> float:
    signal = np.square(coefficients / np.float32(quantiser_steps()[quality]))
    return float(np.log2(1 + signal).sum() * _LAYER_BITS / 8) + 1
