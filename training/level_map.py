"""Trains the level map's frequency tables on level maps of real plans.

    python -m training.level_map --data ../shared/data --out models/level_map.safetensors

Photos with object masks give relevance maps (blurred masks, as an extractor would), the shipped ladder gives the
errors, and the allocator the level maps at budgets from 0.3 to 60 percent of raw. The tables then come from
clustering: each map goes to the table that codes it in the fewest bits, each table is refitted to its maps.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from shared.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.ladder import load_ladder
from shared.level_map import CONTEXTS, FREQUENCY_TOTAL, LEVEL_MAP_FORMAT, contexts
from shared.levels import LEVEL_BYTES
from shared.patches import PatchGrid, split
from shared.sketch import encode_sketch
from shared.weights import write_weights
from transmitter.importance import patch_importance
from transmitter.ladder.planning import STRATEGIES, skip_errors

_LEVELS = len(LEVEL_BYTES)
_LONG_SIDE = 480
_PERCENTS = (0.3, 0.5, 1, 2, 3, 5, 8, 12, 20, 30, 45, 60)
_SEED = 20_251_121


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of coco_train_masks.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The safetensors file to write.")
@click.option("--tables", default=16, show_default=True, help="How many tables.")
@click.option("--photos", default=250, show_default=True, help="How many photos.")
def main(data: Path, out: Path, tables: int, photos: int) -> None:
    """Trains the tables and writes them."""
    counts = np.stack([_counts(levels, grid) for levels, grid in _level_maps(data / "coco_train_masks", photos)])
    counts = np.concatenate([counts, _plain_counts()])
    frequencies = fit(counts, tables)
    write_weights(out, LEVEL_MAP_FORMAT, {"frequencies": frequencies}, {"maps": str(len(counts))})
    click.echo(f"{len(counts)} maps, mean {_bits(counts, frequencies).min(axis=1).mean() / 8:.1f} bytes")


def fit(counts: Float64Array, tables: int) -> NDArray[np.uint16]:
    """Clusters level maps by the table that codes them best.

    Args:
        counts: (maps, CONTEXTS * levels) how often each level stands in each context.
        tables: how many tables to fit.

    Returns:
        (tables, CONTEXTS, levels) integer frequencies, each at least 1.
    """
    random = np.random.default_rng(_SEED)
    mean_level = (counts.reshape(len(counts), CONTEXTS, _LEVELS).sum(axis=1) @ np.arange(_LEVELS)) / counts.sum(axis=1)
    assigned = (np.argsort(np.argsort(mean_level)) * tables) // len(counts)
    for _ in tqdm(range(20), desc="clustering"):
        frequencies = np.stack([_table(counts[assigned == table].sum(axis=0)) for table in range(tables)])
        bits = _bits(counts, frequencies)
        assigned = bits.argmin(axis=1)
        for table in np.setdiff1d(np.arange(tables), assigned):
            # An empty table starts again from the maps that are coded worst.
            assigned[random.choice(np.argsort(bits.min(axis=1))[-50:], 10)] = table
    return frequencies


def _bits(counts: Float64Array, frequencies: NDArray[np.uint16]) -> Float64Array:
    costs: Float64Array = -np.log2(frequencies.reshape(len(frequencies), -1) / FREQUENCY_TOTAL)
    return counts @ costs.T


def _table(counts: Float64Array) -> NDArray[np.uint16]:
    """Frequencies of one table: rare contexts lean on the same left and upper neighbours, those on the level alone."""
    cells = counts.reshape(_LEVELS, _LEVELS, _LEVELS, _LEVELS, _LEVELS)
    marginal = cells.sum(axis=(0, 1, 2, 3)) + 0.05
    pair = cells.sum(axis=(1, 3), keepdims=True) + 2 * marginal / marginal.sum()
    full = cells + 4 * pair / pair.sum(axis=-1, keepdims=True)
    return _integers(full.reshape(CONTEXTS, _LEVELS))


def _integers(weights: Float64Array) -> NDArray[np.uint16]:
    shares = weights / weights.sum(axis=1, keepdims=True) * (FREQUENCY_TOTAL - _LEVELS)
    frequencies = np.floor(shares).astype(np.int64) + 1
    rows = np.arange(len(weights))
    frequencies[rows, shares.argmax(axis=1)] += FREQUENCY_TOTAL - frequencies.sum(axis=1)
    return np.asarray(frequencies, np.uint16)


def _counts(levels: UInt8Array, grid: PatchGrid) -> Float64Array:
    pairs: Int64Array = contexts(levels, grid) * _LEVELS + levels
    return np.bincount(pairs, minlength=CONTEXTS * _LEVELS).astype(np.float64)


def _plain_counts() -> Float64Array:
    """Maps that photos do not give: one level all over."""
    grid = PatchGrid(480, 320)
    return np.stack([_counts(np.full(grid.count, level, np.uint8), grid) for level in range(_LEVELS)] * 20)


def _level_maps(folder: Path, photos: int) -> Iterator[tuple[UInt8Array, PatchGrid]]:
    ladder = load_ladder()
    random = np.random.default_rng(_SEED)
    for image, relevance in tqdm(_masked_photos(folder, photos), total=photos, desc="level maps"):
        grid = PatchGrid.of(image)
        errors = ladder.encode(split(image)).errors.copy()
        errors[:, 0] = skip_errors(image, encode_sketch(image, 48), grid)
        for strategy in ("rate-distortion", "rate-distortion", "rate-distortion", "greedy"):
            importance = patch_importance(_as_extracted(relevance, random))
            allocator = STRATEGIES[strategy](importance, errors)
            for percent in _PERCENTS:
                yield allocator.levels_within(int(grid.raw_bytes * percent / 100)), grid


def _as_extracted(mask: UInt8Array, random: np.random.Generator) -> Float32Array:
    """A mask as a relevance extractor might see it: blurred, scaled, with a floor; sometimes exact."""
    blur = ImageFilter.GaussianBlur(float(random.choice([0, 3, 8, 16])))
    soft = np.asarray(Image.fromarray(mask).filter(blur), np.float32) / 255
    floored = soft * random.uniform(0.4, 1) + random.choice([0, 0.02, 0.1])
    return np.asarray(floored.clip(0, 1), np.float32)


def _masked_photos(folder: Path, photos: int) -> Iterator[tuple[UInt8Array, UInt8Array]]:
    data = json.loads((folder / "instances.json").read_text())
    shapes: dict[int, dict[int, list[list[float]]]] = {}
    for annotation in data["annotations"]:
        if isinstance(annotation["segmentation"], list):
            by_category = shapes.setdefault(annotation["image_id"], {})
            by_category.setdefault(annotation["category_id"], []).extend(annotation["segmentation"])
    for entry in data["images"][:photos]:
        with Image.open(next(folder.rglob(entry["file_name"].rsplit("/", 1)[-1].rsplit(".", 1)[0] + ".*"))) as file:
            photo = file.convert("RGB")
        polygons = max(shapes.get(entry["id"], {0: []}).values(), key=len)
        yield _resized(photo, polygons, (entry["width"], entry["height"]))


def _resized(photo: Image.Image, polygons: list[list[float]], size: tuple[int, int]) -> tuple[UInt8Array, UInt8Array]:
    scale = _LONG_SIDE / max(photo.size)
    target = (max(8, round(photo.width * scale)), max(8, round(photo.height * scale)))
    mask = Image.new("L", target)
    for polygon in polygons:
        points = np.asarray(polygon).reshape(-1, 2) * (np.asarray(target) / np.asarray(size))
        if len(points) > 2:
            ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=255)
    return np.asarray(photo.resize(target, Image.Resampling.LANCZOS)), np.asarray(mask)


if __name__ == "__main__":
    main()
