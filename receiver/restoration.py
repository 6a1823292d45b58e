"""Restoration: from decoded patches and their levels to the picture a person sees.

```
received patches ─┬─ fill ─── linear filter ─┬─────────────(+)── skipped patches ─┐
background ───────┘  (push-pull of   levels ─┴─ residual CNN  │                    ├─ picture
                      received - background)                  └── coded patches ───┤
                                                 raw patches, untouched ───────────┘
```

Skipped or lost patches are filled from what arrived around them: the difference between received samples and the
background is averaged down a pyramid and let out again where nothing arrived, fading with distance. A small
residual network, which knows every patch's level, then corrects the filled patches. Coded patches are corrected
by a linear filter in closed form (least squares, one per level) from the 4 pixels around them; the network found
nothing beyond it there. Raw patches pass through untouched.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from receiver.tiling import Box, tiles, to_patches, to_picture
from shared.arrays import UInt8Array
from shared.levels import LEVEL_BYTES, RAW, SKIPPED
from shared.patches import PATCH_SIZE, PatchGrid, join
from shared.weights import Weights, default_path, read_network

RESTORATION_FORMAT: Final = "mmsc-restoration-1"
"""Format and version tag of the weights file."""

_CELL: Final = 4  # the network's finest grid: 4x4 pixels, a quarter of a patch
_RING: Final = 4  # pixels around a patch that its linear filter sees
_SCALES: Final = 6  # pyramid steps of the fill: reaches 64 pixels
_RESIDUAL_SCALE: Final = 0.1  # the network's output of 1 is 25 grey levels


class Fill(nn.Module):
    """Fills skipped samples by push-pull of the residual against the background."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.full((_SCALES,), 2.0))
        """How much of the residual outlives each step of the pyramid, before the sigmoid."""

    def forward(self, picture: Tensor, known: Tensor, background: Tensor) -> Tensor:
        """Fills a picture.

        Args:
            picture: (n, 3, height, width), anything where not known.
            known: (n, 1, height, width), 1 where samples arrived, else 0.
            background: (n, 3, height, width).

        Returns:
            (n, 3, height, width): `picture` where known, else background plus the spread residual.
        """
        residual = (picture - background) * known
        return background + self._spread(residual, known, 0)

    def _spread(self, residual: Tensor, known: Tensor, scale: int) -> Tensor:
        """Residual (already times `known`, a weight in 0..1) with the gaps filled from the coarser scales."""
        if scale == _SCALES or min(known.shape[2:]) < 2:
            return residual
        coarse_known = functional.avg_pool2d(known, 2, ceil_mode=True)
        mean = functional.avg_pool2d(residual, 2, ceil_mode=True) / coarse_known.clamp_min(1e-6)
        weight = (2 * coarse_known).clamp_max(1.0)
        coarse = self._spread(mean * weight, weight, scale + 1) * torch.sigmoid(self.keep[scale])
        fine = functional.interpolate(coarse, size=known.shape[2:], mode="bilinear", align_corners=False)
        spread: Tensor = residual + (1 - known) * fine
        return spread


class LinearFilter(nn.Module):
    """Least-squares correction of every coded patch from itself and a ring of pixels around it.

    One filter per level and opponent channel (brightness and two of colour, which photos hardly correlate).
    """

    def __init__(self) -> None:
        super().__init__()
        window = (PATCH_SIZE + 2 * _RING) ** 2
        self.register_buffer("weights", torch.zeros(RAW - 1, 3, window, PATCH_SIZE**2))

    def forward(self, picture: Tensor, levels: Tensor) -> Tensor:
        """Corrects a filled picture.

        Args:
            picture: (n, 3, 8 rows, 8 columns).
            levels: (n, rows, columns) int64.

        Returns:
            Same shape as `picture`; unchanged at levels 0 and 4 and beside patches of a lower level, which the
            filter was not fitted to.
        """
        rough = -functional.max_pool2d(-levels[:, None].float(), 3, stride=1, padding=1)[:, 0] < levels
        weights = self.get_buffer("weights")
        windows = linear_windows(picture)
        change = picture.new_zeros(*windows.shape[:3], PATCH_SIZE**2)
        for level in range(1, RAW):
            chosen = ((levels == level) & ~rough).flatten(1)
            change[chosen] = torch.einsum("pow,owk->pok", windows[chosen], weights[level - 1])
        rgb = torch.einsum("oc,npok->npck", _opponents(), change).flatten(2).mT
        return picture + functional.fold(rgb, picture.shape[2:], PATCH_SIZE, stride=PATCH_SIZE)


def linear_windows(picture: Tensor) -> Tensor:
    """(n, patches, 3, window) opponent samples in and around every patch, less the patch's mean."""
    opponents = torch.einsum("oc,nchw->nohw", _opponents(), picture)
    padded = functional.pad(opponents, (_RING, _RING, _RING, _RING), mode="replicate")
    windows = functional.unfold(padded, PATCH_SIZE + 2 * _RING, stride=PATCH_SIZE).mT
    means = functional.avg_pool2d(opponents, PATCH_SIZE).flatten(2).mT[..., None]
    centred: Tensor = windows.reshape(*means.shape[:3], -1) - means
    return centred


def linear_targets(missing: Tensor) -> Tensor:
    """(n, patches, 3, 64) opponent samples of every patch of a difference picture (n, 3, height, width)."""
    opponents = torch.einsum("oc,nchw->nohw", _opponents(), missing)
    patches = functional.unfold(opponents, PATCH_SIZE, stride=PATCH_SIZE).mT
    return patches.reshape(*patches.shape[:2], 3, -1)


@cache
def _opponents() -> Tensor:
    """(3, 3) orthonormal brightness, red minus blue, green minus magenta."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    return functional.normalize(rows, dim=1)


class RestorationNet(nn.Module):
    """Residual network on cells of 4x4 pixels, with a coarser floor of one position per patch.

    Args:
        width: channels on the cell grid; the patch grid has twice as many.
        blocks: residual blocks on the patch grid.
    """

    def __init__(self, width: int = 48, blocks: int = 3) -> None:
        super().__init__()
        cell = 3 * _CELL * _CELL
        self.fill = Fill()
        self.linear = LinearFilter()
        self.head = nn.Conv2d(cell + 3 + len(LEVEL_BYTES) + 4, width, 3, padding=1)
        self.fine_in = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.ModuleList(_Block(2 * width) for _ in range(blocks))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.fine_out = nn.ModuleList(_Block(width) for _ in range(1))
        self.tail = nn.Conv2d(width, cell, 3, padding=1)
        nn.init.zeros_(self.tail.weight)

    def forward(self, picture: Tensor, levels: Tensor, background: Tensor) -> Tensor:
        """Restores a picture.

        Args:
            picture: (n, 3, 8 rows, 8 columns) float, 0..1, decoded patches.
            levels: (n, rows, columns) int64.
            background: (n, 3, 8 rows, 8 columns) float, 0..1.

        Returns:
            (n, 3, 8 rows, 8 columns), unclipped; raw patches come out as they went in, but for float rounding.
        """
        skipped = (levels == SKIPPED)[:, None]
        if not skipped.any():
            return self.linear(picture, levels)  # type: ignore[no-any-return]
        if skipped.all():
            return background  # nothing arrived to better it by
        missing = _upsample(skipped.float(), PATCH_SIZE)
        filled = self.linear(self.fill(picture, 1 - missing, background), levels)
        restored: Tensor = filled + missing * self._residual(filled, levels, background)
        return restored

    def _residual(self, filled: Tensor, levels: Tensor, background: Tensor) -> Tensor:
        fine = functional.leaky_relu(self.head(_features(filled, levels, background)), 0.1)
        fine = fine + functional.leaky_relu(self.fine_in(fine), 0.1)
        coarse = functional.leaky_relu(self.down(fine), 0.1)
        for block in self.coarse:
            coarse = block(coarse)
        fine = fine + functional.pixel_shuffle(self.up(coarse), 2)
        for block in self.fine_out:
            fine = block(fine)
        residual: Tensor = functional.pixel_shuffle(self.tail(fine), _CELL) * _RESIDUAL_SCALE
        return residual


class _Block(nn.Module):
    """Two convolutions around a leaky rectifier, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(functional.leaky_relu(self.first(x), 0.1))
        return out


def _features(filled: Tensor, levels: Tensor, background: Tensor) -> Tensor:
    """Network input on the cell grid: samples, how far the background is off, level, place within the patch."""
    cells = functional.pixel_unshuffle(filled - 0.5, _CELL)
    off = functional.avg_pool2d(filled - background, _CELL)
    one_hot = functional.one_hot(levels, len(LEVEL_BYTES)).permute(0, 3, 1, 2).float()
    corner = torch.eye(4).view(1, 4, 2, 2).repeat(len(levels), 1, levels.shape[1], levels.shape[2])
    return torch.cat([cells, off, _upsample(one_hot, PATCH_SIZE // _CELL), corner], dim=1)


def _upsample(grid: Tensor, factor: int) -> Tensor:
    return functional.interpolate(grid, scale_factor=factor, mode="nearest")


@dataclass(frozen=True)
class Restorer:
    """The receiver's restoration with trained weights."""

    net: RestorationNet

    @classmethod
    def load(cls, path: Path | None = None) -> "Restorer":
        """Loads the network.

        Args:
            path: weights file; None takes the one that ships with the project.

        Raises:
            WeightsError: the file is absent, foreign or damaged; the message names its path.
        """
        return cls(read_network(path or default_path("restoration.safetensors"), RESTORATION_FORMAT, _network))

    def restore(self, patches: UInt8Array, levels: UInt8Array, grid: PatchGrid, background: UInt8Array) -> UInt8Array:
        """Makes the picture.

        Args:
            patches: (grid.count, 8, 8, 3) RGB; what stands in skipped patches does not matter.
            levels: (grid.count,) level of each patch as received; 0 for a skipped or lost one.
            grid: the picture's grid.
            background: (grid.count, 8, 8, 3) RGB, a coarse guess at every patch.

        Returns:
            (grid.height, grid.width, 3) RGB; patches at the raw level are exactly as decoded.
        """
        if (levels == RAW).all():
            return join(patches, grid)
        shape = (grid.rows, grid.columns)
        whole = (*shape, PATCH_SIZE, PATCH_SIZE, 3)
        received = _Received(patches.reshape(whole), levels.reshape(shape), background.reshape(whole))
        out = np.empty(whole, np.uint8)
        for inner, outer in tiles(grid):
            out[inner.slices] = self._restore_tile(received, inner, outer)
        return join(out.reshape(patches.shape), grid)

    def _restore_tile(self, received: "_Received", inner: "Box", outer: "Box") -> UInt8Array:
        """(rows, columns, 8, 8, 3) patches of `inner`, seen from within `outer`."""
        levels, patches = received.levels[inner.slices], received.patches[inner.slices]
        if (levels == RAW).all():
            return patches
        with torch.inference_mode():
            picture = self.net(
                to_picture(received.patches[outer.slices]),
                torch.from_numpy(received.levels[outer.slices].astype(np.int64))[None],
                to_picture(received.background[outer.slices]),
            )
        restored = to_patches(picture)[inner.within(outer)]
        return np.where((levels == RAW)[..., None, None, None], patches, restored)


@dataclass(frozen=True)
class _Received:
    """What the receiver has, as grids of patches."""

    patches: UInt8Array  # (rows, columns, 8, 8, 3)
    levels: UInt8Array  # (rows, columns)
    background: UInt8Array  # (rows, columns, 8, 8, 3)


def _network(weights: Weights) -> RestorationNet:
    net = RestorationNet(int(weights.settings["width"]), int(weights.settings["blocks"]))
    net.load_state_dict({name: torch.from_numpy(array).float() for name, array in weights.tensors.items()})
    return net.eval().to(memory_format=torch.channels_last)
