"""What a transmission holds: the map of its levels, its sketch, and the bodies of its patches."""

from typing import Final

import numpy as np

from receiver.codecs import load_receiver
from receiver.contract import ArrivedPatches, Layout
from shared.arrays import UInt8Array
from shared.codec.entropy.codec import Scene, load_entropy_codec
from shared.codec.entropy.levels import EXACT, sending_order
from shared.entropy_level_map import decode as decode_entropy_map
from shared.entropy_level_map import encode as encode_entropy_map
from shared.errors import PacketError, StreamError
from shared.level_map import decode_level_map, encode_level_map
from shared.patches import PatchGrid
from shared.sketch import decode_sketch, encode_sketch
from transmitter.planning import Plan

from .mutations import Sample
from .runner import Target
from .samples import photo, plans

_MIB: Final = 1024 * 1024

# ---- what is in the header -------------------------------------------------------------------------

_GRIDS = (PatchGrid(96, 72), PatchGrid(61, 45), PatchGrid(1, 1), PatchGrid(640, 8), PatchGrid(8, 640))


def _levels(grid: PatchGrid, levels: int, seed: int) -> UInt8Array:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, levels, (grid.rows // 3 + 1, grid.columns // 3 + 1)).astype(np.uint8)
    return np.ascontiguousarray(coarse.repeat(3, 0).repeat(3, 1)[: grid.rows, : grid.columns]).ravel()


def ladder_maps() -> Target:
    """The first byte chooses the grid, the second the table."""
    corpus = []
    for number, grid in enumerate(_GRIDS):
        for seed in range(3):
            table, coded = encode_level_map(_levels(grid, 5, seed), grid)
            corpus.append((bytes([number, table]) + coded,))

    def decode(sample: Sample) -> None:
        data = sample[0] + bytes(2)
        grid = _GRIDS[data[0] % len(_GRIDS)]
        levels = decode_level_map(sample[0][2:], data[1], grid)
        assert levels.shape == (grid.count,)
        assert levels.max() < 5

    return Target("level-map-ladder", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


def entropy_maps() -> Target:
    """The first byte chooses the grid."""
    corpus = [
        (bytes([number]) + encode_entropy_map(_levels(grid, 8, seed), grid),)
        for number, grid in enumerate(_GRIDS)
        for seed in range(3)
    ]

    def decode(sample: Sample) -> None:
        grid = _GRIDS[(sample[0] + b"\0")[0] % len(_GRIDS)]
        levels = decode_entropy_map(sample[0][1:], grid)
        assert levels.shape == (grid.count,)
        assert levels.max() < 8

    return Target("level-map-entropy", corpus, decode, (StreamError,), 1.0, 32 * _MIB)


def sketches() -> Target:
    corpus = [(encode_sketch(photo(96, 72), size),) for size in (0, 1, 12, 100, 768)]

    def decode(sample: Sample) -> None:
        assert decode_sketch(sample[0], _GRIDS[1]).shape == (_GRIDS[1].count, 8, 8, 3)

    return Target("sketch", corpus, decode, (), 0.5, 32 * _MIB)


def backgrounds() -> Target:
    codec = load_entropy_codec()
    corpus = [(plan.header.sketch,) for plan in plans("entropy")]

    def decode(sample: Sample) -> None:
        assert codec.background(sample[0], _GRIDS[0]).shape == (_GRIDS[0].count, 3)

    return Target("background", corpus, decode, (StreamError,), 1.0, 32 * _MIB)


# ---- patches ---------------------------------------------------------------------------------------


def _body_target(name: str, plan: Plan) -> Target:
    """Bodies of one stream; the first three bytes of each string are its position."""
    codec = load_receiver(name)
    layout = Layout.of(codec.open(plan.header), codec.entry)
    corpus = [tuple(body.position.to_bytes(3, "big") + body.content for body in plan.bodies)]
    corpus += [(part,) for part in corpus[0]]

    def decode(sample: Sample) -> None:
        pieces, end = [], 0
        for part in sorted(sample):
            position, body = int.from_bytes(part[:3], "big"), part[3:]
            codec.usable(layout, position, body)
            try:
                found = codec.pieces(layout, position, body)
            except PacketError:
                continue
            if position >= end:  # the assembly lets none overlap
                pieces += found
                end = found[-1].place.stop
        decoded = ArrivedPatches(codec, plan.header, layout, tuple(pieces), 1).decode()
        assert decoded.read_patches <= sum(piece.patches for piece in pieces)

    return Target(f"bodies-{name}", corpus, decode, (), 2.0, 32 * _MIB)


def ladder_bodies() -> Target:
    return _body_target("ladder", plans("ladder")[0])


def entropy_bodies() -> Target:
    return _body_target("entropy", plans("entropy")[0])


def entropy_cut() -> Target:
    """Bodies of which but the beginning is there, as read from a file that was cut off."""
    codec, plan = load_receiver("entropy"), plans("entropy")[2]
    layout = Layout.of(codec.open(plan.header), codec.entry)
    corpus = [(body.position.to_bytes(3, "big") + body.content,) for body in plan.bodies]

    def decode(sample: Sample) -> None:
        position = int.from_bytes(sample[0][:3], "big")
        body = codec.usable(layout, position, sample[0][3:])
        pieces = tuple(codec.pieces(layout, position, body))
        ArrivedPatches(codec, plan.header, layout, pieces, 1).decode()

    return Target("bodies-entropy-cut", corpus, decode, (PacketError,), 2.0, 32 * _MIB)


def lossless() -> Target:
    """Bodies of exact patches."""
    codec, plan = load_entropy_codec(), plans("entropy")[3]
    grid, levels = plan.header.grid, np.full(plan.header.grid.count, EXACT, np.uint8)
    scene = Scene(grid, levels, 0, 0, sending_order(levels, grid), np.zeros((grid.count, 3)))
    corpus = [(body.content,) for body in plan.bodies]
    corpus.append((len(levels).to_bytes(2, "big") + b"\1" + bytes(grid.count * 192),))

    def decode(sample: Sample) -> None:
        patches, _ = codec.decode(scene, [(0, sample[0])])
        assert patches.shape == (grid.count, 8, 8, 3)

    return Target("lossless", corpus, decode, (), 2.0, 32 * _MIB)
