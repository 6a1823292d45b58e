"""Restoration of entropy-coded pictures: from decoded patches and their qualities to the picture a person sees.

```
received patches ─┬─ fill ─┬─ filled ─────────────────────────────────────(+)─┬─ exact patches, untouched ─┐
background ───────┘        │                                               │  ├─ coded patches ────────────┼─ picture
                           └─ 2x2 pixels ─► 4x4 pixels ─► patches          │  └─ skipped patches ──────────┘
qualities ─── gains, offsets ──┴──────────────┴─────────────┘             │
                              2x2 pixels ◄─ 4x4 pixels ◄──┘ ─ x quantiser step
```

Skipped or lost patches are first filled as for the ladder (`receiver/restoration.py`), from the received patches
around them and the enlarged background. A residual network on three grids then corrects everything that is not
exact. It knows every patch's quantiser: gains and offsets on each grid follow from it, and what the network
adds is counted in quantiser steps, so that a fine picture is hardly touched. Below a certain quantiser the picture
is not touched at all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from receiver.restoration import Fill
from receiver.tiling import Box, tiles, to_patches, to_picture
from shared.arrays import AnyArray, BoolArray, Int64Array, UInt8Array
from shared.codec.entropy.levels import QUALITY_EXACT, QUALITY_SKIPPED
from shared.patches import PATCH_SIZE, PatchGrid, join
from shared.weights import Weights, default_path, read_network

ENTROPY_RESTORATION_FORMAT: Final = "mmsc-entropy-restoration-1"
"""Format and version tag of the weights file."""

FINEST_RESTORED: Final = 56
"""Qualities below this one are left as they are: on some photos nothing is to be gained there, or a little lost."""

_QUALITIES_PER_OCTAVE: Final = 16
_FINEST_STEP: Final = 0.5  # grey levels, at quality 0
_SKIPPED_STEP: Final = 64.0  # grey levels: what a skipped patch counts as
_KNOTS: Final = tuple(range(0, 161, 20))  # the networks see quality as a place between these
_CONDITIONS: Final = len(_KNOTS) + 2
_HIDDEN: Final = 64
_CELL: Final = 2  # pixels along the side of the finest grid's positions
_RESIDUAL_STEPS: Final = 0.25  # the network's output of 1 in quantiser steps
_DETAIL_BOUND: Final = 4.0


class EntropyRestorationNet(nn.Module):
    """Residual network on positions of 2x2 pixels, 4x4 pixels and patches.

    Args:
        fine: channels on the grid of 2x2 pixels.
        middle: channels on the grid of 4x4 pixels.
        coarse: channels on the grid of patches.
        blocks: residual blocks on the grid of patches.
    """

    def __init__(self, fine: int = 48, middle: int = 96, coarse: int = 128, blocks: int = 2) -> None:
        super().__init__()
        planes = 3 * _CELL * _CELL
        self.fill = Fill()
        self.condition = nn.Linear(_CONDITIONS, _HIDDEN)
        self.into_fine, self.into_middle = _Modulation(fine), _Modulation(middle)
        self.into_coarse, self.out_of_middle = _Modulation(coarse), _Modulation(middle)
        self.head = nn.Conv2d(2 * planes + 3, fine, 3, padding=1)
        self.fine_in = nn.Conv2d(fine, fine, 3, padding=1)
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_in = _Block(middle)
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = nn.Sequential(*(_Block(coarse) for _ in range(blocks)))
        self.from_coarse = nn.ConvTranspose2d(coarse, middle, 2, stride=2)
        self.middle_out = _Block(middle)
        self.from_middle = nn.ConvTranspose2d(middle, fine, 2, stride=2)
        self.fine_out = nn.Conv2d(fine, fine, 3, padding=1)
        self.tail = nn.Conv2d(fine, planes, 3, padding=1)
        for part in (self.tail.weight, self.tail.bias):
            nn.init.zeros_(part)  # type: ignore[arg-type]

    def forward(self, picture: Tensor, qualities: Tensor, background: Tensor) -> Tensor:
        """Restores a picture.

        Args:
            picture: (n, 3, 8 rows, 8 columns) float, 0..1, decoded patches; anything where skipped.
            qualities: (n, rows, columns) int64: QUALITY_SKIPPED, QUALITY_EXACT, or the quantiser.
            background: (n, 3, rows, columns) float, 0..1, the colour of every patch.

        Returns:
            (n, 3, 8 rows, 8 columns), unclipped; exact patches come out as they went in, but for float rounding.
        """
        smooth = enlarged(background)
        filled = self.filled(picture, qualities, smooth)
        steps = step_levels(qualities)[:, None] / 255
        residual = self._residual(filled, qualities, smooth, steps)
        restored: Tensor = filled + residual * _stretched(steps, PATCH_SIZE)
        return restored

    def filled(self, picture: Tensor, qualities: Tensor, smooth: Tensor) -> Tensor:
        """The picture with skipped patches filled from `smooth`, the enlarged background, and what is around them."""
        skipped = (qualities == QUALITY_SKIPPED)[:, None]
        if not skipped.any():
            return picture
        known = 1 - _stretched(skipped.float(), PATCH_SIZE)
        filled: Tensor = self.fill(picture, known, smooth)
        return filled

    def _residual(self, filled: Tensor, qualities: Tensor, smooth: Tensor, steps: Tensor) -> Tensor:
        """(n, 3, height, width) in quantiser steps."""
        circumstances = _rectified(self.condition(_conditions(qualities)))
        fine = self.head(_features(filled, smooth, steps))
        fine = _rectified(self.fine_in(_rectified(self.into_fine(fine, circumstances))))
        middle = self.middle_in(_rectified(self.into_middle(self.to_middle(fine), circumstances)))
        coarse = self.coarse(_rectified(self.into_coarse(self.to_coarse(middle), circumstances)))
        middle = self.middle_out(self.out_of_middle(self.from_coarse(coarse).add_(middle), circumstances))
        fine = _rectified(self.fine_out(self.from_middle(middle).add_(fine)))
        return functional.pixel_shuffle(self.tail(fine), _CELL) * _RESIDUAL_STEPS


class _Modulation(nn.Module):
    """Feature-wise gains and offsets that follow from what is known of each patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gains = nn.Linear(_HIDDEN, width)
        self.offsets = nn.Linear(_HIDDEN, width)
        with torch.no_grad():
            for part, bias in ((self.gains, 1.0), (self.offsets, 0.0)):
                part.weight.mul_(0.3)
                part.bias.fill_(bias)

    def forward(self, x: Tensor, circumstances: Tensor) -> Tensor:
        """Of features (n, width, height, width) on any grid, and (n, rows, columns, _HIDDEN)."""
        factor = x.shape[2] // circumstances.shape[1]
        gains, offsets = (
            _stretched(part(circumstances).permute(0, 3, 1, 2), factor) for part in (self.gains, self.offsets)
        )
        return torch.addcmul(offsets, x, gains)


class _Block(nn.Module):
    """Two convolutions around a leaky rectifier, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(_rectified(self.first(x)))
        return change.add_(x)


def step_levels(qualities: Tensor) -> Tensor:
    """Width of the quantiser's step of each patch in grey levels; 0 of exact ones, a constant of skipped ones."""
    steps = _FINEST_STEP * torch.exp2(qualities / _QUALITIES_PER_OCTAVE)
    steps = torch.where(qualities == QUALITY_SKIPPED, _SKIPPED_STEP, steps)
    return torch.where(qualities == QUALITY_EXACT, 0.0, steps)


def enlarged(colours: Tensor) -> Tensor:
    """(n, 3, rows, columns) colours of patches to pixels, bilinear between the patches' centres."""
    return functional.interpolate(colours, scale_factor=PATCH_SIZE, mode="bilinear", align_corners=False)


def _conditions(qualities: Tensor) -> Tensor:
    """(n, rows, columns, _CONDITIONS): skipped, exact, and the quality as a place between knots."""
    spacing = _KNOTS[1] - _KNOTS[0]
    near = (1 - (qualities[..., None] - torch.tensor(_KNOTS)).abs() / spacing).clamp_min(0)
    flags = torch.stack([qualities == QUALITY_SKIPPED, qualities == QUALITY_EXACT], dim=-1).float()
    return torch.cat([near * (qualities >= 0)[..., None], flags], dim=-1)


def _features(filled: Tensor, smooth: Tensor, steps: Tensor) -> Tensor:
    """Network input: samples, the same less the patches' means in quantiser steps, how far off the background is."""
    detail = filled - enlarged(functional.avg_pool2d(filled, PATCH_SIZE))
    detail = detail / _stretched(steps.clamp_min(1 / 255), PATCH_SIZE)
    detail = detail / (1 + detail.abs() / _DETAIL_BOUND)
    planes = functional.pixel_unshuffle(torch.cat([filled - 0.5, detail], dim=1), _CELL)
    off = functional.avg_pool2d(filled - smooth, _CELL)
    return torch.cat([planes, off], dim=1).contiguous(memory_format=torch.channels_last)


def _rectified(x: Tensor) -> Tensor:
    return functional.leaky_relu_(x, 0.1)


def _stretched(grid: Tensor, factor: int) -> Tensor:
    return functional.interpolate(grid, scale_factor=factor, mode="nearest") if factor > 1 else grid


@dataclass(frozen=True)
class EntropyRestorer:
    """The receiver's restoration of entropy-coded pictures, with trained weights."""

    net: EntropyRestorationNet

    @classmethod
    def load(cls, path: Path | None = None) -> "EntropyRestorer":
        """Loads the network.

        Args:
            path: weights file; None takes the one that ships with the project.

        Raises:
            WeightsError: the file is absent, foreign or damaged; the message names its path.
        """
        path = path or default_path("entropy_restoration.safetensors")
        return cls(read_network(path, ENTROPY_RESTORATION_FORMAT, _network))

    def restore(self, patches: UInt8Array, qualities: AnyArray, grid: PatchGrid, background: UInt8Array) -> UInt8Array:
        """Makes the picture.

        Args:
            patches: (grid.count, 8, 8, 3) RGB; what stands in skipped patches does not matter.
            qualities: (grid.count,) int16: QUALITY_SKIPPED, QUALITY_EXACT, or the quantiser, 0 to 159.
            grid: the picture's grid.
            background: (grid.count, 3) RGB, the colour of every patch in the enlarged thumbnail.

        Returns:
            (grid.height, grid.width, 3) RGB; exact patches are exactly as decoded.
        """
        if not _in_need(qualities).any():
            return join(patches, grid)
        shape = (grid.rows, grid.columns)
        whole = (*shape, PATCH_SIZE, PATCH_SIZE, 3)
        received = _Received(
            patches.reshape(whole), qualities.reshape(shape).astype(np.int64), background.reshape(*shape, 3)
        )
        out = np.empty(whole, np.uint8)
        for inner, outer in tiles(grid):
            out[inner.slices] = self._restore_tile(received, inner, outer)
        return join(out.reshape(patches.shape), grid)

    def _restore_tile(self, received: "_Received", inner: Box, outer: Box) -> UInt8Array:
        """(rows, columns, 8, 8, 3) patches of `inner`, seen from within `outer`."""
        patches, chosen = received.patches[inner.slices], _in_need(received.qualities[inner.slices])
        if not chosen.any():
            return patches
        colours = received.background[outer.slices].transpose(2, 0, 1)
        with torch.inference_mode():
            picture = self.net(
                to_picture(received.patches[outer.slices]),
                torch.from_numpy(received.qualities[outer.slices])[None],
                torch.from_numpy(np.ascontiguousarray(colours))[None].float() / 255,
            )
        restored = to_patches(picture)[inner.within(outer)]
        return np.where(chosen[..., None, None, None], restored, patches)


@dataclass(frozen=True)
class _Received:
    """What the receiver has, as grids of patches."""

    patches: UInt8Array  # (rows, columns, 8, 8, 3)
    qualities: Int64Array  # (rows, columns)
    background: UInt8Array  # (rows, columns, 3)


def _in_need(qualities: AnyArray) -> BoolArray:
    """Which patches are to be restored."""
    return np.asarray((qualities == QUALITY_SKIPPED) | (qualities >= FINEST_RESTORED))


def _network(weights: Weights) -> EntropyRestorationNet:
    net = EntropyRestorationNet(*(int(weights.settings[name]) for name in ("fine", "middle", "coarse", "blocks")))
    net.load_state_dict({name: torch.from_numpy(array).float() for name, array in weights.tensors.items()})
    return net.eval().to(memory_format=torch.channels_last)
