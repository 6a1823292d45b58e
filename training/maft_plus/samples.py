"""From a photo to what the network is given, and which photo comes when.

Both follow from the seed and the position in the endless stream of photos alone. So a run that goes on after an
interruption sees what it would have seen, and several processes see together what one would.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.arrays import BoolArray
from shared.errors import InvalidInputError
from training.maft_plus.photos import Photo, PhotoSet
from training.maft_plus.targets import Target

SHORTEST: Final = 800
LONGEST: Final = 1_333
_FLIPPED: Final = 0.5


@dataclass(frozen=True)
class Sizes:
    """The shorter side of a photo becomes `shortest` pixels, unless the longer one would exceed `longest`."""

    shortest: int = SHORTEST
    longest: int = LONGEST


@dataclass(frozen=True)
class Sample:
    """One photo as the network is given it."""

    image: Tensor
    """(3, height, width) uint8 RGB."""

    target: Target
    """Of the same size."""

    seed: int
    """For every random draw that concerns this photo in this iteration."""


@dataclass(frozen=True)
class Stream:
    """Which photo stands where in the endless stream: one permutation after the other."""

    count: int
    """Photos of the set."""

    seed: int

    def photo(self, position: int) -> int:
        """Number of the photo at a position, 0 and up."""
        epoch, place = divmod(position, self.count)
        return int(np.random.default_rng((self.seed, epoch)).permutation(self.count)[place])

    def draws(self, position: int) -> np.random.Generator:
        """The random numbers of a position."""
        return np.random.default_rng((self.seed, 1 << 32, position))


def scaled_size(height: int, width: int, sizes: Sizes) -> tuple[int, int]:
    """(height, width) after resizing; halves are rounded up, no side below 1."""
    scale = sizes.shortest / min(height, width)
    if max(height, width) * scale > sizes.longest:
        scale = sizes.longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def prepare(photo: Photo, sizes: Sizes, *, flip: bool, seed: int) -> Sample:
    """Resizes (picture bilinear, masks nearest) and perhaps mirrors a photo; masks that vanish are left out."""
    height, width = scaled_size(photo.pixels.shape[0], photo.pixels.shape[1], sizes)
    pixels = np.asarray(Image.fromarray(photo.pixels).resize((width, height), Image.Resampling.BILINEAR))
    masks = {number: _nearest(mask, height, width) for number, mask in photo.masks.items()}
    kept = {number: mask for number, mask in masks.items() if mask.any()}
    stacked = np.stack(list(kept.values())) if kept else np.zeros((0, height, width), np.bool_)
    if flip:
        pixels, stacked = pixels[:, ::-1], stacked[:, :, ::-1]
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))
    return Sample(image, Target(torch.tensor(list(kept), dtype=torch.int64), torch.from_numpy(stacked.copy())), seed)


def _nearest(mask: BoolArray, height: int, width: int) -> BoolArray:
    image = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image) > 0


@dataclass(frozen=True)
class Damage:
    """Why there is no sample; an error would not survive its way from another process."""

    field: str
    description: str


class Samples(Dataset[Sample | Damage]):
    """The stream of one process, by position.

    Args:
        photos: the training set.
        stream: which photo stands where.
        sizes: how large photos are made.
    """

    def __init__(self, photos: PhotoSet, stream: Stream, sizes: Sizes) -> None:
        self._photos, self._stream, self._sizes = photos, stream, sizes

    def __getitem__(self, position: int) -> Sample | Damage:
        """The sample at a position, or what is wrong with its files."""
        rng = self._stream.draws(position)
        flip, seed = bool(rng.random() < _FLIPPED), int(rng.integers(1 << 62))
        try:
            return prepare(self._photos.read(self._stream.photo(position)), self._sizes, flip=flip, seed=seed)
        except InvalidInputError as error:
            return Damage(error.field, error.description)


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of each batch."""

    batch: int
    """Photos of all processes together."""

    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        """Checks that all processes take equally many.

        Raises:
            InvalidInputError: they cannot.
        """
        if self.batch < 1 or self.batch % self.processes:
            raise InvalidInputError("batch", f"{self.batch} photos cannot be shared among {self.processes} processes")

    def positions(self, iteration: int) -> range:
        """Positions in the stream that this process sees in an iteration."""
        own = self.batch // self.processes
        start = iteration * self.batch + self.rank * own
        return range(start, start + own)


def batches(samples: Samples, share: Share, iterations: range, workers: int) -> Iterator[list[Sample]]:
    """The batches of this process.

    Args:
        samples: the stream.
        share: what this process takes.
        iterations: which to give.
        workers: processes that read ahead; 0 reads here.

    Raises:
        InvalidInputError: a file of the set is damaged.
    """
    order = [list(share.positions(iteration)) for iteration in iterations]
    # The loader draws a seed for its workers when it is asked to iterate; that must not move anyone else's numbers.
    loader = DataLoader(samples, batch_sampler=order, num_workers=workers, collate_fn=list, generator=torch.Generator())
    for batch in loader:
        for sample in batch:
            if isinstance(sample, Damage):
                raise InvalidInputError(sample.field, sample.description)
        yield batch
