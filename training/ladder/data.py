"""Photos to learn patch statistics from, brought to the scale of a 480x320 photo and cached."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from shared.arrays import Float32Array, Int64Array, UInt8Array
from shared.patches import split

SOURCES: Final[tuple[tuple[str, int], ...]] = (
    ("coco_train_masks/images", 480),
    ("coco_captioned/images", 352),
    ("imagenet_sample/images", 320),
    ("bsds200_train", 240),
)
"""Folder and longest side in pixels after downscaling. Every source is a JPEG of about 1.3 to 2 times that size
(the second and third were downscaled already), which takes the JPEG artefacts out."""


def cache_folder() -> Path:
    """Folder for intermediate files: $XDG_CACHE_HOME/mmsc or /tmp/mmsc."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", "/tmp")) / "mmsc"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Photos:
    """Photos of several sizes in one flat array."""

    samples: UInt8Array
    """All samples of all photos."""

    sizes: Int64Array
    """(photos, 2) height and width."""

    sources: Int64Array
    """(photos,) index into SOURCES."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> UInt8Array:
        ends = np.cumsum(self.sizes.prod(axis=1) * 3)
        height, width = self.sizes[index]
        photo: UInt8Array = self.samples[ends[index] - height * width * 3 : ends[index]]
        return photo.reshape(height, width, 3)


def load_photos(data: Path) -> Photos:
    """Reads every source under `data`, from the cache where it was read before."""
    key = hashlib.sha256(f"{data.resolve()}{SOURCES}".encode()).hexdigest()[:12]
    flat, index = cache_folder() / f"photos-{key}.npy", cache_folder() / f"photos-{key}.npz"
    if not (flat.exists() and index.exists()):
        photos = list(_read_all(data))
        np.save(flat, np.concatenate([photo.ravel() for photo, _ in photos]))
        np.savez(index, sizes=[photo.shape[:2] for photo, _ in photos], sources=[source for _, source in photos])
    with np.load(index) as table:
        return Photos(np.load(flat, mmap_mode="r"), table["sizes"], table["sources"])


def _read_all(data: Path) -> Iterator[tuple[UInt8Array, int]]:
    for source, (folder, side) in enumerate(SOURCES):
        files = sorted(p for p in (data / folder).iterdir() if p.suffix in {".webp", ".jpg"})
        for file in files:
            yield _read(file, side), source


def _read(file: Path, side: int) -> UInt8Array:
    """Reads a photo at the wanted scale; COCO photos come out at the 480x320 (or 320x480) of the paper."""
    with Image.open(file) as image:
        photo = image.convert("RGB")
    scale = side / max(photo.size)
    size = tuple(round(length * scale) for length in photo.size)
    if side == 480:
        size = (480, 320) if photo.width >= photo.height else (320, 480)
    if scale < 1:
        photo = photo.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return np.asarray(photo)


def sample_patches(photos: Photos, per_photo: tuple[int, ...], seed: int) -> tuple[UInt8Array, Float32Array]:
    """Random patches of every photo, some at other phases and mirrored.

    Args:
        photos: the training photos.
        per_photo: patches taken of each photo, per source.
        seed: of the random choice.

    Returns:
        (n, 192) samples and (n,) weights: the inverse of how hard the photo is to code, because the quality of a
        set of photos is the mean of their PSNR, a logarithm of each photo's error.
    """
    rng = np.random.default_rng(seed)
    patches, weights = [], []
    for i in range(len(photos)):
        taken = _sample_photo(photos[i], per_photo[photos.sources[i]], rng)
        patches.append(taken)
        weights.append(np.full(len(taken), 1 / (_difficulty(taken) + 30.0)))
    weight = np.concatenate(weights).astype(np.float32)
    return np.concatenate(patches), weight / weight.mean()


def _sample_photo(photo: UInt8Array, count: int, rng: np.random.Generator) -> UInt8Array:
    dy, dx = rng.integers(0, 8, 2)
    shifted = photo[dy : photo.shape[0] - (photo.shape[0] - dy) % 8, dx : photo.shape[1] - (photo.shape[1] - dx) % 8]
    cut = split(shifted)
    if rng.random() < 0.5:
        cut = cut[:, :, ::-1]
    chosen = rng.choice(len(cut), min(count, len(cut)), replace=False)
    return cut[chosen].reshape(-1, 192)


def _difficulty(patches: UInt8Array) -> float:
    """Mean squared second difference along rows: what is left of a patch after smooth parts are predicted."""
    tiles = patches.reshape(-1, 8, 8, 3).astype(np.float32)
    return float((np.diff(tiles, 2, axis=1) ** 2).mean() + (np.diff(tiles, 2, axis=2) ** 2).mean()) / 6
