"""Measures the text tower on names that it was never taught: is the nearest of all the teacher's names the right one?

A random share of the teacher's names is held out, with everything that would share their vectors. Three answers are
compared: a ridge from the sentence teacher to CLIP's space, a tower that read the held-out names' text in the
sentence teacher's words only, and a tower that never read any phrase with such a name in it. Neither tower ever sees
CLIP's vector of a held-out name. Run with `python -m evaluation.text_tower --help`; needs the `training` extra.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch

from evaluation.partial import write_whole
from evaluation.relevance.report import Check
from shared.arrays import Float32Array
from shared.errors import InvalidInputError
from training.relevance.caches import sentence_cache
from training.relevance.lessons import lessons, without_text
from training.relevance.sentences import LAYER_CHANNELS, sentence_features
from training.relevance.text import fit_tower
from training.relevance.vocabulary import clip_names, same_things, teacher_phrases
from transmitter.relevance.network import CLIP_CHANNELS
from transmitter.relevance.text_tower import TextTower

FIRST_BAR: Final = 0.40
"""Share of the held-out names whose nearest name must be their own."""

FIVE_BAR: Final = 0.75
"""Share whose own name must be among the nearest five."""


@dataclass(frozen=True)
class Standing:
    """How held-out names came out."""

    first: float
    """Share whose own vector is the nearest of all, 0 to 1."""

    five: float
    """Share whose own vector is among the nearest five, 0 to 1."""

    cosine: float
    """Mean cosine to the own vector."""


def hold_out(groups: dict[str, str], share: float, seed: int) -> list[str]:
    """Draws a share of the groups.

    Args:
        groups: the group of each name; those of one group go together.
        share: of the groups, 0 to 1.
        seed: of the draw.

    Returns:
        The names of the drawn groups, at least one.
    """
    every = sorted(set(groups.values()))
    drawn = np.random.default_rng(seed).choice(every, max(1, round(share * len(every))), replace=False)
    chosen = set(drawn.tolist())
    return [name for name, group in groups.items() if group in chosen]


def standing(guesses: Float32Array, own: list[int], vectors: Float32Array) -> Standing:
    """Ranks every guess's own vector among all.

    Args:
        guesses: (count, channels), unit length.
        own: the row of each guess's own vector.
        vectors: (names, channels), unit length.
    """
    cosines = guesses @ vectors.T
    right = cosines[np.arange(len(own)), own]
    nearer = (cosines > right[:, None] + 1e-6).sum(1)
    return Standing(float((nearer < 1).mean()), float((nearer < 5).mean()), float(right.mean()))


def ridge_guesses(
    asked: Float32Array, known: Float32Array, vectors: Float32Array, strength: float = 1.0
) -> Float32Array:
    """The baseline: a ridge of the names' vectors on their sentence embeddings.

    Args:
        asked: (count, channels) sentence embeddings.
        known: (names, channels), those of the names with vectors.
        vectors: (names, 512).
        strength: added to the diagonal.

    Returns:
        (count, 512), unit length.
    """
    centre = known.mean(0)
    left = known - centre
    weights = np.linalg.solve(left.T @ left + strength * np.eye(left.shape[1]), left.T @ vectors)
    guesses = (asked - centre) @ weights
    return np.asarray(guesses / np.linalg.norm(guesses, axis=1, keepdims=True), np.float32)


def measure(folder: Path, cache: Path, share: float, seed: int, steps: int) -> dict[str, Standing]:
    """Holds names out, trains both towers and ranks all answers; arguments as of the command."""
    found = clip_names(folder)
    names, vectors = list(found), np.array(list(found.values()), np.float32)
    held = hold_out(same_things(folder, names), share, seed)
    own = [names.index(name) for name in held]
    taught = lessons(folder, held=held, cache=cache)
    known, known_vectors = teacher_phrases(folder, held)
    last = slice(-LAYER_CHANNELS, None)
    asked, given = (sentence_features(phrases, cache)[:, last] for phrases in (held, known))
    click.echo(f"{len(names)} names, {len(held)} of them held out")
    results = {"ridge": standing(ridge_guesses(asked, given, known_vectors), own, vectors)}
    # The strict figure is a control; half the steps keep the whole run near five minutes.
    unread = without_text(taught, folder, held)
    for label, course, count in (("tower", taught, steps), ("tower, text unread", unread, max(1, steps // 2))):
        tower = fit_tower(course, count, 768, seed)
        results[label] = standing(_encode(tower, held), own, vectors)
    return results


def _encode(tower: TextTower, phrases: list[str]) -> Float32Array:
    """CLIP's part alone: the meaning of a held-out name is no secret."""
    with torch.inference_mode():
        return np.asarray(tower.encode(phrases)[:, :CLIP_CHANNELS].numpy(), np.float32)


def checks_of(results: dict[str, Standing]) -> list[Check]:
    """The figures, each with its bar; none where nothing is demanded."""
    rows: list[tuple[str, float, str, float | None]] = []
    for label, result in results.items():
        bars = (FIRST_BAR, FIVE_BAR) if label == "tower" else (None, None)
        rows.append((f"{label}, held-out names, top 1", result.first, "share", bars[0]))
        rows.append((f"{label}, held-out names, top 5", result.five, "share", bars[1]))
        rows.append((f"{label}, held-out names, cosine", result.cosine, "cosine", None))
    return [
        Check(name=name, value=round(value, 4), unit=unit, bar=bar, ok=bar is None or value >= bar)
        for name, value, unit, bar in rows
    ]


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--cache", type=click.Path(dir_okay=False, path_type=Path), help="Keeps the sentence embeddings.")
@click.option("--share", type=click.FloatRange(0.01, 0.5), default=0.15, show_default=True, help="Held-out names.")
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=1300, show_default=True, help="Of the tower's training.")
def main(  # noqa: PLR0917 - one argument per option of the command
    data: Path, report: Path, cache: Path | None, share: float, seed: int, steps: int
) -> None:
    """Trains towers without a share of the names, prints how those come out and writes the checks as JSON."""
    torch.set_num_threads(1)
    try:
        checks = checks_of(measure(data / "teachers", cache or sentence_cache(), share, seed, steps))
        report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(report, {"share": share, "seed": seed, "checks": checks})
    except (InvalidInputError, FileNotFoundError) as error:
        raise click.UsageError(str(error)) from error
    for row in checks:
        bar = f"(bar {row['bar']}) {'ok' if row['ok'] else 'MISSED'}" if row["bar"] is not None else ""
        click.echo(f"{row['name']:44s} {row['value']:.3f} {row['unit']:6s} {bar}")


if __name__ == "__main__":
    main()
