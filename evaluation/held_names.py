"""Measures what it costs that the text tower was never told CLIP's vector of a name that people ask for.

A tower is trained without half of the categories (every phrase that would share their vectors is left out too; what
they mean as sentences is told of them as of any other word) and takes the shipped tower's place; everything else
stays. Both are asked for those categories alone, in every photo that shows them.
Run with `python -m evaluation.held_names --help`; needs the `training` extra.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from tqdm import tqdm

from evaluation.datasets import Dataset, Sample, open_dataset
from evaluation.partial import write_whole
from evaluation.relevance.photo import ObjectRow, mean, score_photo
from evaluation.relevance.report import Check
from shared.errors import InvalidInputError, WeightsError
from training.relevance.caches import sentence_cache
from training.relevance.photos import CATEGORIES
from training.relevance.text import train_text
from transmitter.relevance import RelevanceExtractor
from transmitter.relevance.embedded import EmbeddedExtractor
from transmitter.relevance.weights import load

BAR: Final = 0.03
"""Average precision may be lower by this where the names are not told."""


def draw_names(count: int, seed: int) -> list[str]:
    """Categories whose names are held out, without repetition.

    Args:
        count: 1 to the number of categories.
        seed: of the draw.
    """
    return sorted(np.random.default_rng(seed).choice(CATEGORIES, count, replace=False).tolist())


def found(extractor: RelevanceExtractor, sample: Sample, names: Collection[str]) -> Iterator[ObjectRow]:
    """How the large enough objects of these names are found in one photo."""
    rows = score_photo(extractor, sample, None, {})["objects"]
    return (row for name, row in rows.items() if name in names and row["counted"])


def precision(extractor: RelevanceExtractor, dataset: Dataset, names: Collection[str]) -> tuple[float, int]:
    """Mean average precision over all objects of these names, and their number.

    Args:
        extractor: what is measured.
        dataset: the photos.
        names: of categories.

    Raises:
        InvalidInputError: the dataset shows none of them.
    """
    aps = [
        row["ap"]
        for sample in tqdm(dataset, desc="photos", total=len(dataset), mininterval=5)
        for row in found(extractor, sample, names)
    ]
    value = mean(aps)
    if value is None:
        raise InvalidInputError("dataset", "shows none of the held-out names")
    return value, len(aps)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--cache", type=click.Path(dir_okay=False, path_type=Path), help="Keeps the sentence embeddings.")
@click.option("--count", type=click.IntRange(1, len(CATEGORIES)), default=40, show_default=True, help="Names held out.")
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=2000, show_default=True, help="Of the tower's training.")
def main(  # noqa: PLR0917 - one argument per option of the command
    folder: Path, data: Path, report: Path, cache: Path | None, count: int, seed: int, steps: int
) -> None:
    """Compares the shipped text tower with one that was not told some names, on the photos of FOLDER."""
    torch.set_num_threads(1)
    names = draw_names(count, seed)
    try:
        dataset, model = open_dataset(folder), load()
        tower = train_text(data / "teachers", steps=steps, seed=seed, held=names, cache=cache or sentence_cache())
        told, objects = precision(EmbeddedExtractor(model), dataset, names)
        held, _ = precision(EmbeddedExtractor(replace(model, tower=tower)), dataset, names)
        loss = told - held
        check = Check(name="names held out, loss", value=loss, unit="AP", bar=BAR, ok=loss <= BAR)
        report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(report, {"names": names, "told": told, "held": held, "checks": [check]})
    except (InvalidInputError, WeightsError, FileNotFoundError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{objects} objects of {count} names: {told:.3f} AP told, {held:.3f} held out (bar: {BAR} less)")


if __name__ == "__main__":
    main()
