"""Trains the text tower to repeat CLIP's text vectors for names, and to ignore words that name nothing."""

import re
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.relevance.vocabulary import alias_phrases, teacher_phrases
from transmitter.relevance.phrases import stem
from transmitter.relevance.text_tower import TextTower

_QUALIFIERS: Final = (
    "red blue green yellow white black brown gray grey pink purple orange golden silver dark bright light big "
    "small large little tiny huge tall short long old young new beautiful pretty cute happy sad wooden metal "
    "plastic glass stone striped spotted colorful shiny dirty clean empty full open closed two three four five "
    "several many few left right main other same first second top bottom nearest biggest smallest hot cold wet "
    "dry fresh fluffy furry fat thin round square broken parked moving stuffed domestic wild modern antique"
)

QUALIFIERS: Final = tuple(_QUALIFIERS.split())
"""Words that may stand before a name without changing what it is."""


def train_text(folder: Path, *, steps: int = 3000, batch: int = 256, seed: int = 0) -> TextTower:
    """Fits a tower to the teacher's names.

    Args:
        folder: the teachers' folder.
        steps: optimiser steps.
        batch: phrases per step.
        seed: of the initial values and of the random phrases.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    phrases, targets = teacher_phrases(folder)
    words = sorted({stem(word) for phrase in phrases for word in phrase.split()} | set(QUALIFIERS))
    tower = TextTower(words)
    vectors = torch.from_numpy(targets)
    optimiser = torch.optim.AdamW(tower.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    progress = tqdm(range(steps), desc="text tower", mininterval=10)
    for _ in progress:
        rows = rng.integers(len(phrases), size=batch)
        loss = _loss(tower, [_vary(rng, phrases[row]) for row in rows], vectors, torch.from_numpy(rows), rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return tower.eval()


def _loss(tower: TextTower, said: list[str], vectors: Tensor, rows: Tensor, rng: np.random.Generator) -> Tensor:
    """Distance to the teacher plus a contrast against all its other names."""
    words, grams = tower.tokens(said)
    forget = torch.from_numpy(rng.random(words.shape) < 0.12)
    words = torch.where(forget & (words > 0), 1, words)
    given = tower(words, grams)
    wanted = vectors[rows]
    distance = (1 - (given * wanted).sum(1)).mean()
    others = given @ vectors.T * 20
    soft = torch.softmax(wanted @ vectors.T * 20, 1)
    contrast = functional.kl_div(torch.log_softmax(others, 1), soft, reduction="batchmean")
    total: Tensor = distance + 0.2 * contrast
    return total


def _vary(rng: np.random.Generator, phrase: str) -> str:
    """Adds qualifiers before a phrase, or misspells it a little."""
    draw = rng.random()
    if draw < 0.3:
        extra = rng.choice(QUALIFIERS, rng.integers(1, 3))
        phrase = " ".join([*extra, phrase])
    elif draw < 0.35 and len(phrase) > 4:
        at = rng.integers(1, len(phrase) - 1)
        phrase = phrase[:at] + phrase[at + 1 :]
    return re.sub(r"\s+", " ", phrase).strip()


def report(tower: TextTower, folder: Path) -> str:
    """How well the tower repeats the teacher: mean cosine, and how often the nearest name is the right one."""
    phrases, targets = teacher_phrases(folder)
    with torch.no_grad():
        scores = tower.encode(phrases) @ torch.from_numpy(targets).T
    right = scores.diagonal() >= scores.max(1).values - 1e-4
    return f"{len(phrases)} phrases, cosine {scores.diagonal().mean():.3f}, nearest is right {right.float().mean():.3f}"


def phrase_table(tower: TextTower, names: list[str]) -> tuple[Tensor, list[int]]:
    """Vectors of every phrase of every category.

    Returns:
        (phrases, 512) and the category's place in `names` of each.
    """
    owners = [place for place, name in enumerate(names) for _ in alias_phrases(name)]
    with torch.no_grad():
        return tower.encode([alias for name in names for alias in alias_phrases(name)]), owners
