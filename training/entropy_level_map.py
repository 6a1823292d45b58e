"""Trains the network by which the entropy codec's level map is coded.

    python -m training.entropy_level_map --data ../shared/data --out models/entropy_level_map.safetensors

COCO photos with object masks give importances: the masks of one object and of two, and what the embedded extractor
makes of the same names and of the photo's captions. `transmitter.entropy.levels` makes level maps of them at random
settings, and a small network learns each patch's rank from the ranks of its neighbours, in nats per patch. Then it is
rounded to integers, and measured as such on photos that it did not learn from.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from evaluation.datasets import open_dataset
from shared.arrays import AnyArray, BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array
from shared.codec.entropy.exact import ExactNetwork
from shared.entropy_level_map import (
    DENSITIES,
    INPUTS,
    LEVEL_MAP_FORMAT,
    LEVELS,
    LOGIT_SCALE,
    NEIGHBOURS,
    bytes_of_ranks,
    density_of,
    neighbour_inputs,
    one_hot,
)
from shared.patches import PatchGrid
from shared.weights import write_weights
from transmitter.entropy.levels import MAX_REACH, ideal_offsets, is_mask, relative_levels, relative_offsets
from transmitter.importance import patch_importance
from transmitter.relevance.embedded import EmbeddedExtractor
from transmitter.relevance.weights import load

_LONG_SIDES = (480, 480, 320, 768)
_OBJECTS = 4
_QUERIES = 3
_HELD_OUT = 60
_SETTINGS = 5
_SMOOTHNESS = (0.5, 1.0, 2.0, 4.0)
_HIDDEN = (64, 32)
_BATCH = 2_048
_SEED = 20_261_121
_KEY_SHAPE = (LEVELS + 1, DENSITIES, LEVELS, *[LEVELS + 1] * len(NEIGHBOURS))


@dataclass(frozen=True)
class Contexts:
    """Patches of level maps, equal ones counted."""

    neighbours: Int64Array
    """(n, neighbours) as of `neighbour_inputs`."""
    used: Int64Array
    """(n,) how many levels occur in the map."""
    density: Int64Array
    """(n,) of the map."""
    rank: Int64Array
    """(n,) the patch's own."""
    count: Float64Array
    """(n,) how many patches are like this."""

    def inputs(self, rows: Int64Array) -> Float32Array:
        """(len(rows), INPUTS) what the network sees."""
        return one_hot(self.neighbours[rows], self.used[rows], self.density[rows])


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of the data sets.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The safetensors file to write.")
@click.option("--photos", default=343, show_default=True, help="How many photos; the last 60 are held out.")
@click.option("--steps", default=6_000, show_default=True, help="Steps of the optimiser.")
def main(data: Path, out: Path, photos: int, steps: int) -> None:
    """Trains the network, writes it, and measures it on photos of coco_query_dev, which it does not learn from."""
    torch.set_num_threads(1)
    extractor = EmbeddedExtractor(load())
    found = list(importances(data / "coco_train_masks", photos, extractor))
    held = sorted({photo for photo, _, _ in found})[-_HELD_OUT:]
    train = [item for item in found if item[0] not in held]
    network = exact(fit(contexts(level_maps([(grid, each) for _, grid, each in train], mirrored=True)), steps))
    maps = level_maps([(grid, each) for photo, grid, each in found if photo in held])
    write_weights(out, LEVEL_MAP_FORMAT, network.to_tensors("network"), {"photos": str(photos - _HELD_OUT)})
    taken = [bytes_of_ranks(network, ranks) for ranks, _ in maps]
    click.echo(f"{len(taken)} held-out maps, mean {np.mean(taken):.1f} bytes")
    for line in report(network, data / "coco_query_dev", extractor):
        click.echo(line)


def importances(
    folder: Path, photos: int, extractor: EmbeddedExtractor
) -> Iterator[tuple[int, PatchGrid, Float32Array]]:
    """Number of a photo, its grid, and importances of its patches: several for each photo."""
    data = json.loads((folder / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    for number, entry in enumerate(tqdm(data["images"][:photos], desc="importances")):
        with Image.open(folder / "images" / entry["file_name"]) as file:
            photo = _resized(file.convert("RGB"), _LONG_SIDES[number % len(_LONG_SIDES)])
        masks = _masks([each for each in data["annotations"] if each["image_id"] == entry["id"]], entry, photo)
        largest = sorted(masks, key=lambda category: -int(masks[category].sum()))[:_OBJECTS]
        pairs = [(one, other) for one in largest for other in largest if one < other]
        asked = [*((category,) for category in largest[:_QUERIES]), *pairs[:_QUERIES]]
        maps = [np.logical_or.reduce([masks[each] for each in query]).astype(np.float32) for query in asked]
        texts = [" and ".join(names[each] for each in query) for query in asked] + entry["captions"][:2]
        maps += [answer.map for answer in extractor.many(photo, texts)]
        for each in maps:
            yield number, PatchGrid.of(photo), patch_importance(each)


def level_maps(
    found: Sequence[tuple[PatchGrid, Float32Array]], *, mirrored: bool = False
) -> Iterator[tuple[Int64Array, PatchGrid]]:
    """(rows, columns) ranks of level maps at random settings, of as many levels as a planner might use."""
    random = np.random.default_rng(_SEED)
    for grid, importance in tqdm(found, desc="level maps"):
        several = _mask_levels(importance, grid) if is_mask(importance) else _soft_levels(importance, grid, random)
        for levels in several:
            ranks = np.unique(levels, return_inverse=True)[1].reshape(grid.rows, grid.columns)
            if ranks.any():
                yield (ranks[:, ::-1] if mirrored and random.random() < 0.5 else ranks), grid


def _mask_levels(importance: Float32Array, grid: PatchGrid) -> Iterator[AnyArray]:
    """Of a mask: as it is levelled by itself, and with more of its edge, as a planner has it."""
    yield relative_levels(importance, grid, reach=MAX_REACH, smoothness=1)
    yield importance > 0


def _soft_levels(importance: Float32Array, grid: PatchGrid, random: np.random.Generator) -> Iterator[AnyArray]:
    for _ in range(_SETTINGS):
        reach, smoothness = int(random.integers(1, LEVELS)), float(random.choice(_SMOOTHNESS))
        offsets = relative_offsets(importance, grid, reach=reach, smoothness=smoothness)
        # A generous budget makes all of the finest patches exact; too many offsets fall together.
        spread = 1.0 if reach < LEVELS - 1 or random.random() < 0.5 else (MAX_REACH - 1) / reach
        yield -np.rint(np.maximum(offsets, int(random.choice([0, 0, 0, 1, 2]))) * spread)


def contexts(maps: Iterator[tuple[Int64Array, PatchGrid]]) -> Contexts:
    """All patches of level maps."""
    counted = [np.unique(_keys(ranks), return_counts=True) for ranks in (*(ranks for ranks, _ in maps), *_noise())]
    keys, inverse = np.unique(np.concatenate([keys for keys, _ in counted]), return_inverse=True)
    count = np.bincount(inverse, np.concatenate([counts for _, counts in counted])).astype(np.float64)
    digits = np.stack(np.unravel_index(keys, _KEY_SHAPE), axis=1)
    neighbours = digits[:, 3:] + np.arange(len(NEIGHBOURS)) * (LEVELS + 1)
    return Contexts(neighbours, digits[:, 0], digits[:, 1], digits[:, 2], count)


def _keys(ranks: Int64Array) -> Int64Array:
    """(patches,) one number each for used levels, density, rank and neighbours."""
    head = (np.full(ranks.size, ranks.max() + 1), np.full(ranks.size, density_of(ranks)), ranks.ravel())
    neighbours = neighbour_inputs(ranks) - np.arange(len(NEIGHBOURS)) * (LEVELS + 1)
    return np.asarray(np.ravel_multi_index((*head, *neighbours.T), _KEY_SHAPE), np.int64)


def _noise() -> Iterator[Int64Array]:
    """Maps that photos do not give: each patch on its own."""
    random = np.random.default_rng(_SEED)
    for used in range(2, LEVELS + 1):
        for _ in range(20):
            yield np.unique(random.integers(0, used, (8, 12)), return_inverse=True)[1].reshape(8, 12)


def fit(found: Contexts, steps: int) -> nn.Sequential:
    """Trains the network: cross entropy over patches, common ones drawn less often and weighted more."""
    torch.manual_seed(_SEED)
    random = np.random.default_rng(_SEED)
    network = nn.Sequential(
        *(nn.Linear(INPUTS, _HIDDEN[0]), nn.ReLU()),
        *(nn.Linear(_HIDDEN[0], _HIDDEN[1]), nn.ReLU()),
        nn.Linear(_HIDDEN[1], LEVELS),
    )
    optimiser = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    chances = np.cumsum(np.sqrt(found.count))
    weights = torch.tensor(np.sqrt(found.count), dtype=torch.float32)
    bar = tqdm(range(steps), desc="steps")
    mean = 0.0
    for step in bar:
        rows = np.searchsorted(chances, random.random(_BATCH) * chances[-1])
        nats = _nats(network, found, rows)
        loss = (nats * weights[rows]).mean() * float(chances[-1] / found.count.sum())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        mean += (loss.item() - mean) / min(step + 1, 200)
        if step % 200 == 0:
            bar.set_postfix(bits_per_patch=mean / math.log(2))
    return network


def _nats(network: nn.Module, found: Contexts, rows: Int64Array) -> Tensor:
    logits = network(torch.from_numpy(found.inputs(rows)))
    absent = torch.arange(LEVELS) >= torch.from_numpy(found.used[rows])[:, None]
    return functional.cross_entropy(
        logits.masked_fill(absent, -100.0), torch.from_numpy(found.rank[rows]), reduction="none"
    )


def exact(network: nn.Sequential) -> ExactNetwork:
    """The network in integers."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    arrays = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]
    return ExactNetwork.from_floats(
        arrays, input_scale=1.0, output_scale=LOGIT_SCALE / math.log(2), input_limit=1, sum_limit=1 << 24
    )


def report(network: ExactNetwork, folder: Path, extractor: EmbeddedExtractor) -> Iterator[str]:
    """What maps of a dataset take under the network: masks of what is asked, and what the extractor makes of it."""
    importance: dict[str, list[tuple[PatchGrid, Float32Array]]] = {"masks": [], "extracted": []}
    for sample in open_dataset(folder):
        grid, mask = PatchGrid.of(sample.image), sample.mask(sample.asked).astype(np.float32)
        importance["masks"].append((grid, patch_importance(mask)))
        importance["extracted"].append((grid, patch_importance(extractor(sample.image, sample.query).map)))
    for kind, reach, smoothness in itertools.product(importance, (1, 3, 6, 7), (0.0, 1.0, 2.0)):
        taken, apart = [], []
        for grid, each in importance[kind]:
            offsets = relative_offsets(each, grid, reach=reach, smoothness=smoothness)
            ranks = np.unique(-offsets, return_inverse=True)[1].reshape(grid.rows, grid.columns)
            taken.append(bytes_of_ranks(network, ranks) if ranks.any() else 1.0)
            apart.append(np.abs(offsets - np.minimum(np.rint(ideal_offsets(each)), reach)).mean())
        figures = (
            f"mean {np.mean(taken):.1f}, greatest {max(taken):.0f} bytes; {np.mean(apart):.3f} levels from the ideal"
        )
        yield f"{kind}, reach {reach}, smoothness {smoothness:g}: {figures}"


def _masks(annotations: Sequence[dict[str, Any]], entry: dict[str, Any], photo: UInt8Array) -> dict[int, BoolArray]:
    """(height, width) of each category that is drawn by polygons."""
    size = (photo.shape[1], photo.shape[0])
    scale = np.asarray(size) / np.asarray((entry["width"], entry["height"]))
    drawn: dict[int, Image.Image] = {}
    for annotation in annotations:
        if isinstance(annotation["segmentation"], list):
            mask = drawn.setdefault(annotation["category_id"], Image.new("L", size))
            for polygon in annotation["segmentation"]:
                points = np.asarray(polygon).reshape(-1, 2) * scale
                ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=1)
    return {category: np.asarray(mask) > 0 for category, mask in drawn.items()}


def _resized(photo: Image.Image, long_side: int) -> UInt8Array:
    scale = long_side / max(photo.size)
    size = (max(8, round(photo.width * scale)), max(8, round(photo.height * scale)))
    return np.asarray(photo.resize(size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
