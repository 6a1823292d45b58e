"""Measures the restoration of entropy-coded pictures on photos it was not trained on.

`python -m training.entropy.restoration_measure --data ../shared/data`
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from torch import Tensor

from receiver.entropy_restoration import EntropyRestorer, enlarged
from shared.arrays import AnyArray, UInt8Array
from shared.codec.entropy.background import thumbnail
from shared.codec.entropy.levels import QUALITY_SKIPPED
from shared.patches import PATCH_SIZE, PatchGrid, split
from training.entropy.restoration import HELD_OUT, pixels, planes
from training.entropy.restoration_pictures import CodedPicture, coded_thumbnail, received_picture
from training.ladder.data import load_photos
from training.ladder.pictures import random_levels

_QUALITIES: Final = (40, 48, 56, 64, 72, 80, 88, 104, 116)
_THUMBNAIL_QUALITY: Final = 92
_MIXED_QUALITIES: Final = (72, 104)


def measure_coded(photos: list[UInt8Array], restorer: EntropyRestorer, log: Callable[[str], None]) -> None:
    """Whole photos, each quality."""
    for quality in _QUALITIES:
        gains, before = [], []
        for photo in photos:
            grid = PatchGrid.of(photo)
            qualities = np.full((grid.rows, grid.columns), quality)
            picture = received_picture(photo, qualities, np.zeros_like(qualities, np.bool_), _background(photo))
            before.append(_psnr(picture.decoded, photo))
            gains.append(_psnr(_restored(picture, restorer), photo) - before[-1])
        log(
            f"quality {quality:3}: {np.mean(before):.2f} dB, gain {np.mean(gains):+.3f} dB, "
            f"from {min(gains):+.3f} to {max(gains):+.3f}"
        )


def measure_mixed(photos: list[UInt8Array], restorer: EntropyRestorer, log: Callable[[str], None]) -> None:
    """Photos in which a random part is skipped and 5 % of the rest is lost."""
    for quality in _MIXED_QUALITIES:
        rows = []
        for number, photo in enumerate(photos):
            rng = np.random.default_rng(number)
            grid = PatchGrid.of(photo)
            skipped = random_levels(rng, grid.rows, grid.columns) == 0
            qualities = np.where(skipped, QUALITY_SKIPPED, quality)
            lost = rng.random(qualities.shape) < 0.05
            picture = received_picture(photo, qualities, lost, _background(photo))
            rows.append(_compare(picture, restorer))
        means = " ".join(f"{value:6.2f}" for value in np.nanmean(rows, axis=0))
        log(f"quality {quality:3}, parts skipped: coded before, after; background, filled, restored: {means} dB")


def _compare(picture: CodedPicture, restorer: EntropyRestorer) -> list[float]:
    coded, skipped = pixels(picture.qualities >= 0), pixels(picture.qualities == QUALITY_SKIPPED)
    smooth = enlarged(planes([picture.background]))
    with torch.inference_mode():
        filled = restorer.net.filled(planes([picture.decoded]), torch.from_numpy(picture.qualities)[None], smooth)
    restored = _restored(picture, restorer)
    seen = [
        (picture.decoded, coded),
        (restored, coded),
        (_samples(smooth), skipped),
        (_samples(filled), skipped),
        (restored, skipped),
    ]
    return [_psnr(shown[where], picture.photo[where]) for shown, where in seen]


def _restored(picture: CodedPicture, restorer: EntropyRestorer) -> UInt8Array:
    grid = PatchGrid.of(picture.photo)
    colours = picture.background.reshape(-1, 3)
    return restorer.restore(split(picture.decoded), picture.qualities.ravel().astype(np.int16), grid, colours)


def _background(photo: UInt8Array) -> UInt8Array:
    return coded_thumbnail(thumbnail(photo), _THUMBNAIL_QUALITY, halved=False)


def _samples(picture: Tensor) -> UInt8Array:
    return np.asarray((picture[0] * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


def _psnr(shown: AnyArray, truth: AnyArray) -> float:
    if not truth.size:
        return float("nan")
    return float(10 * np.log10(255**2 / np.mean((shown.astype(np.float64) - truth) ** 2)))


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=None)
def main(*, data: Path, weights: Path | None) -> None:
    """Prints gains in PSNR, photo by photo, averaged over the held-out photos."""
    photos, restorer = load_photos(data), EntropyRestorer.load(weights)
    held_out = [_whole_patches(photos[index]) for index in HELD_OUT]
    measure_coded(held_out, restorer, click.echo)
    measure_mixed(held_out, restorer, click.echo)


def _whole_patches(photo: UInt8Array) -> UInt8Array:
    height, width = (side // PATCH_SIZE * PATCH_SIZE for side in photo.shape[:2])
    return np.ascontiguousarray(photo[:height, :width])


if __name__ == "__main__":
    main()
