"""Measures how well a relevance extractor finds what a query names: patch-level average precision.

The truth of a query is the union of its objects' masks; an 8x8 patch is positive where more than half of it is
mask, its score is the mean of the map over it. Run with `python -m evaluation.relevance_ap --help`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from shared.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from shared.patches import split
from transmitter.relevance import RelevanceExtractor, load_embedded

PAIR_BAR: Final = 0.75
"""Mean average precision that the two-object queries must reach."""


def average_precision(scores: Float32Array, positive: BoolArray) -> float:
    """Area under the precision-recall steps, ties taken together (as scikit-learn computes it).

    Args:
        scores: (count,), higher means more relevant.
        positive: (count,), with at least one True.

    Returns:
        0 to 1.

    Raises:
        ValueError: nothing is positive, so that no precision is defined.
    """
    if not positive.any():
        raise ValueError("average precision needs at least one positive")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(positive[order])[ends]
    precision = hits / (ends + 1)
    return float((precision * np.diff(hits, prepend=0)).sum() / hits[-1])


def auroc(scores: Float32Array, positive: BoolArray) -> float:
    """Chance that a random positive scores above a random negative, ties counting half; 0 to 1.

    Raises:
        ValueError: only one of the two kinds is there.
    """
    wins, losses = scores[positive], np.sort(scores[~positive])
    if not (len(wins) and len(losses)):
        raise ValueError("the area needs positives and negatives")
    below, upto = np.searchsorted(losses, wins, "left"), np.searchsorted(losses, wins, "right")
    return float((below + upto).mean() / (2 * len(losses)))


def patch_means(plane: Float32Array | BoolArray) -> Float32Array:
    """(height, width) to the (patches,) means over its 8x8 patches in raster order."""
    return np.asarray(split(plane.astype(np.float32)[:, :, None]).mean((1, 2, 3)), np.float32)


@dataclass(frozen=True)
class Sample:
    """One photo with its query and the masks of everything that was annotated."""

    stem: str
    """Name of the photo."""

    image: UInt8Array
    """(height, width, 3) RGB."""

    query: str
    """As a person would ask, "cat and keyboard"."""

    asked: tuple[str, ...]
    """Categories that the query names."""

    masks: dict[str, BoolArray]
    """(height, width) per annotated category."""

    def truth(self, names: tuple[str, ...]) -> BoolArray:
        """(patches,): more than half of the patch is one of these categories."""
        return patch_means(np.any([self.masks[name] for name in names], axis=0)) > 0.5


def read_samples(folder: Path) -> Iterator[Sample]:
    """Reads a folder of the evaluation format: `queries.json`, the photos and one mask per category."""
    for row in json.loads((folder / "queries.json").read_text()):
        stem = Path(row["image"]).stem
        masks = {
            item["name"]: _read_mask(folder / "masks" / f"{stem}.{item['name'].replace(' ', '_')}.png")
            for item in row["objects"]
        }
        image = np.asarray(Image.open(folder / row["image"]).convert("RGB"))
        yield Sample(stem, image, row["query"], tuple(row["objects_in_query"]), masks)


def _read_mask(path: Path) -> BoolArray:
    return np.asarray(Image.open(path).convert("1"))


@dataclass
class Scores:
    """What the samples gave, one list entry per query."""

    pair: list[float]
    """AP of the two-object queries."""

    single: list[float]
    """AP of each object of a query asked for alone."""

    silent: list[float]
    """AP of the two-object truth under the empty query."""

    wrong: list[float]
    """AP of the two-object truth under the next sample's query that shares no object."""

    separation: list[float]
    """AUROC of one object's patches against the other's, when the one is asked for."""

    presence: list[tuple[float, bool]]
    """99.5th percentile of the map and whether the object asked for is in the photo."""

    judged: list[bool]
    """Whether `present` told the truth, of the same queries."""


def score(extractor: RelevanceExtractor, samples: list[Sample]) -> Scores:
    """Asks the extractor everything about every sample."""
    scores = Scores([], [], [], [], [], [], [])
    for index, sample in enumerate(tqdm(samples, desc=extractor.name, mininterval=5)):
        truth = sample.truth(sample.asked)
        if not truth.any():
            continue
        other = _unrelated(samples, index)
        for query, out in ((sample.query, scores.pair), ("", scores.silent), (other.query, scores.wrong)):
            out.append(average_precision(patch_means(extractor(sample.image, query).map), truth))
        _score_singles(extractor, sample, other, scores)
    return scores


def _unrelated(samples: list[Sample], index: int) -> Sample:
    """The next sample whose query names nothing that this photo shows; the next one where there is none."""
    later = [samples[(index + step) % len(samples)] for step in range(1, len(samples))]
    shown = set(samples[index].masks)
    return next((sample for sample in later if not shown & set(sample.asked)), later[0])


def _score_singles(extractor: RelevanceExtractor, sample: Sample, other: Sample, scores: Scores) -> None:
    truths = {name: sample.truth((name,)) for name in sample.asked}
    for name, truth in truths.items():
        answer = extractor(sample.image, name)
        patches = patch_means(answer.map)
        scores.presence.append((float(np.quantile(answer.map, 0.995)), True))
        scores.judged.append(answer.present)
        rest = np.any([truths[each] for each in truths if each != name], axis=0) & ~truth
        if truth.any():
            scores.single.append(average_precision(patches, truth))
        if truth.any() and rest.any():
            scores.separation.append(auroc(patches[truth | rest], truth[truth | rest]))
    for name in set(other.asked) - set(sample.masks):
        answer = extractor(sample.image, name)
        scores.presence.append((float(np.quantile(answer.map, 0.995)), False))
        scores.judged.append(not answer.present)


def checks_of(scores: Scores) -> list[dict[str, Any]]:
    """The figures as rows of `name`, `value`, `unit`, `bar` (none where nothing is demanded) and `ok`."""
    peaks = np.array([peak for peak, _ in scores.presence], np.float32)
    there = np.array([present for _, present in scores.presence])
    rows: list[tuple[str, float, str, float | None]] = [
        ("two-object AP", _mean(scores.pair), "AP", PAIR_BAR),
        ("single-object AP", _mean(scores.single), "AP", None),
        ("two-object AP, empty query", _mean(scores.silent), "AP", None),
        ("two-object AP, wrong query", _mean(scores.wrong), "AP", None),
        ("separation of the two objects", _mean(scores.separation), "AUROC", None),
        ("present or absent, by peak", auroc(peaks, there), "AUROC", None),
        ("present or absent, told rightly", _mean(scores.judged), "share", None),
    ]
    return [
        {"name": name, "value": round(value, 4), "unit": unit, "bar": bar, "ok": bar is None or value >= bar}
        for name, value, unit, bar in rows
    ]


def _mean(values: list[float] | list[bool]) -> float:
    return float(np.mean(np.asarray(values, np.float64)))


def side_by_side(sample: Sample, relevance: Float32Array) -> UInt8Array:
    """(height, 3 * width, 3): the photo, the map as heat over it, and the true masks as light over it."""
    truth = np.any([sample.masks[name] for name in sample.asked], axis=0)
    planes: list[Float64Array] = [
        sample.image.astype(np.float64),
        _heat(sample.image, relevance),
        _heat(sample.image, truth.astype(np.float32)),
    ]
    return np.concatenate(planes, 1).round().astype(np.uint8)


def _heat(image: UInt8Array, plane: Float32Array) -> Float64Array:
    strength = plane.astype(np.float64)[:, :, None]
    colour = np.concatenate([strength, 0.6 * strength**2, 1 - strength], 2) * 255
    return 0.35 * image + 0.65 * colour


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(dir_okay=False, path_type=Path), help="Default: the shipped file.")
@click.option("--pictures", default=6, show_default=True, help="How many side-by-side pictures to save.")
def main(data: Path, report: Path, weights: Path | None, pictures: int) -> None:
    """Measures the embedded extractor, prints a table and writes the checks as JSON."""
    extractor = load_embedded(weights)
    samples = list(read_samples(data))
    checks = checks_of(score(extractor, samples))
    report.parent.mkdir(parents=True, exist_ok=True)
    for sample in samples[:: max(1, len(samples) // max(1, pictures))][:pictures]:
        picture = side_by_side(sample, extractor(sample.image, sample.query).map)
        Image.fromarray(picture).save(report.parent / f"relevance_{sample.stem}.png")
    report.write_text(json.dumps({"queries": len(samples), "checks": checks}, indent=2) + "\n")
    for row in checks:
        bar = f"(bar {row['bar']}) {'ok' if row['ok'] else 'MISSED'}" if row["bar"] is not None else ""
        click.echo(f"{row['name']:34s} {row['value']:.3f} {row['unit']:6s} {bar}")


if __name__ == "__main__":
    main()
