"""Keeps what does not change between epochs: the trunks' features, the masks and the teachers' answers.

The trunks start frozen, so that their maps of a fixed set of crops are computed once. One `.npz` per crop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from shared.arrays import Float32Array
from training.relevance.photos import CATEGORIES, COLUMNS, ROWS, Crop, Photo, draw_crop, pixels
from training.relevance.teachers import BoxTeacher, SceneTeacher, VocTeacher
from transmitter.relevance.network import RelevanceNetwork

ZOOMS: Final = ((0.85, 1.0), (0.85, 1.0), (0.5, 0.8), (0.5, 0.8))
"""Range of the window's side of each crop of a masked photo, against the largest window."""


@dataclass(frozen=True)
class Job:
    """One crop to be cached."""

    photo: Photo
    """Where it comes from."""

    crop: Crop
    """Which part of it."""

    name: str
    """File name in the cache, without ending."""


def plan(photos: list[Photo], prefix: str, zooms: tuple[tuple[float, float], ...]) -> Iterator[Job]:
    """Draws the crops of each photo from its position in the list, so that a second run draws the same."""
    for index, photo in enumerate(photos):
        rng = np.random.default_rng(index)
        with Image.open(photo.path) as image:
            size = image.size
        for number, (low, high) in enumerate(zooms):
            crop = draw_crop(rng, size, rng.uniform(low, high), mirrored=(number + index) % 2 == 1)
            yield Job(photo, crop, f"{prefix}-{index:05d}-{number}")


def fill(jobs: list[Job], folder: Path, network: RelevanceNetwork, boxes: BoxTeacher, voc: VocTeacher) -> None:
    """Computes what is missing in the cache; an interrupted run goes on where it stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in tqdm(jobs, desc=f"features into {folder}", mininterval=10):
        path = folder / f"{job.name}.npz"
        if not path.exists():
            arrays = _entry(job, network, boxes, voc)
            part = path.with_suffix(".part.npz")
            np.savez(part, **arrays)  # type: ignore[arg-type]
            part.rename(path)


def _entry(job: Job, network: RelevanceNetwork, boxes: BoxTeacher, voc: VocTeacher) -> dict[str, object]:
    image = pixels(job.photo, job.crop)
    with torch.no_grad():
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        maps = [level[0].half().numpy() for level in network.features(tensor)]
    kinds = [CATEGORIES.index(name) for name in job.photo.masks]
    masks = [job.crop.grid(mask) for mask in job.photo.masks.values()]
    return {
        **{f"map{level}": array for level, array in enumerate(maps)},
        "pixels": image,
        "kinds": np.array(kinds, np.int64),
        "masks": (np.array(masks).reshape(-1, ROWS, COLUMNS) * 255).astype(np.uint8),
        "complete": job.photo.complete,
        "label": job.photo.label,
        "boxes": boxes(image),
        "voc": _to_patches(voc(image)),
    }


def _to_patches(planes: Float32Array) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(h, w, classes) probabilities to (classes, 40, 60), 0 to 255."""
    resized = [
        np.asarray(Image.fromarray(plane).resize((COLUMNS, ROWS), Image.Resampling.BILINEAR))
        for plane in planes.transpose(2, 0, 1)
    ]
    return (np.array(resized) * 255).clip(0, 255).astype(np.uint8)


def fill_scenes(paths: list[Path], scenes: SceneTeacher) -> None:
    """Adds what the scene teacher says to cached crops, each in a file of its own beside the crop's."""
    for path in tqdm(paths, desc="scenes", mininterval=10):
        target = scene_path(path)
        if not target.exists():
            with np.load(path) as entry:
                planes = _to_patches(scenes(entry["pixels"]))
            np.save(target, planes)


def scene_path(path: Path) -> Path:
    """Where the scene of a cached crop is kept."""
    return path.with_suffix(".scene.npy")


def fill_faces(jobs: list[Job], folder: Path) -> None:
    """Adds the faces to cached crops, each in a file of its own beside the crop's."""
    for job in jobs:
        if job.photo.face is not None:
            np.save(face_path(folder / f"{job.name}.npz"), job.crop.grid(job.photo.face))


def face_path(path: Path) -> Path:
    """Where the face of a cached crop is kept."""
    return path.with_suffix(".face.npy")
