"""Trains the text tower to repeat CLIP's vectors and the meanings of phrases, and to ignore what names nothing."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from shared.arrays import Float32Array, Int64Array
from training.relevance.corpus import QUALIFIERS
from training.relevance.lessons import Lesson, Lessons, lessons
from training.relevance.photos import CATEGORIES
from training.relevance.vocabulary import GROUPS, PARTS, STUFF, alias_phrases, plain, teacher_phrases
from transmitter.relevance.network import CLIP_CHANNELS, MEANING_CHANNELS
from transmitter.relevance.phrases import stem
from transmitter.relevance.text_tower import WORD_CHANNELS, TextTower

_FORGET: Final = 0.1
"""Share of the words whose own vector is taken away in training, so that their letters learn to stand in."""

_SHARPNESS: Final = 20.0
_RIVALS: Final = 768
_OFTEN: Final = 0.5
"""Share of the sure phrases that is drawn from the categories and what they are called."""

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def train_text(
    folder: Path,
    *,
    steps: int = 2500,
    batch: int = 768,
    seed: int = 0,
    held: Collection[str] = (),
    cache: Path | None = None,
) -> TextTower:
    """Fits a tower to the teacher's names and, through the text map, to everything else that people say.

    Args:
        folder: the teachers' folder; captions are read from the folders beside it.
        steps: optimiser steps.
        batch: phrases per step.
        seed: of the initial values and of the random phrases.
        held: names whose vectors are not taught, with everything that shares them.
        cache: file that keeps the sentence embeddings between runs.

    Raises:
        InvalidInputError: the sentence teacher's package is not installed.
    """
    return fit_tower(lessons(folder, held=held, cache=cache, seed=seed), steps, batch, seed)


def fit_tower(taught: Lessons, steps: int, batch: int, seed: int) -> TextTower:
    """Trains a new tower on prepared lessons; arguments as of `train_text`."""
    torch.manual_seed(seed)
    tower = TextTower(taught.words)
    _warm_start(tower, taught)
    course = _Course(tower, taught, np.random.default_rng(seed))
    optimiser = torch.optim.AdamW(tower.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
    progress = tqdm(range(steps), desc="text tower", mininterval=10)
    for _ in progress:
        loss = course.sure_loss(batch // 3) + course.spoken_loss(batch * 2 // 3) + course.nonsense_loss(batch // 24)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return tower.eval()


def _warm_start(tower: TextTower, taught: Lessons) -> None:
    """Lets words start where the map sees them, along the strongest directions of the names."""
    axes = np.linalg.svd(taught.sure.vectors, full_matrices=False)[2][:WORD_CHANNELS]
    rows = {word: row for row, word in enumerate(tower.words, start=2)}
    with torch.no_grad():
        for table in (tower.word_table, tower.gram_table, tower.place_table):
            table.weight *= 0.3
        for lesson in (taught.spoken, taught.sure):
            known = [place for place, phrase in enumerate(lesson.phrases) if phrase in rows]
            started = torch.from_numpy(lesson.vectors[known] @ axes.T * 3).float()
            tower.word_table.weight[[rows[lesson.phrases[place]] for place in known], : len(axes)] = started


class _Course:
    """Draws phrases and says how far the tower is from their vectors."""

    def __init__(self, tower: TextTower, taught: Lessons, rng: np.random.Generator) -> None:
        self._tower, self._rng, self._taught = tower, rng, taught
        self._sure, self._spoken = torch.from_numpy(taught.sure.vectors), torch.from_numpy(taught.spoken.vectors)
        self._names = frozenset(taught.sure.phrases)
        self._often = _rows_of_categories(taught.sure)
        words, grams = tower.tokens(taught.spoken.phrases)
        self._words, self._grams = words.short(), grams.short()
        parts = np.split(taught.sure.vectors, [CLIP_CHANNELS], axis=1)
        self._nothing = torch.from_numpy(np.concatenate([nothing(part) for part in parts]))

    def sure_loss(self, count: int) -> Tensor:
        """Names with qualifiers and misspellings, against all other names."""
        often = self._rng.choice(self._often, int(count * _OFTEN))
        rows = np.concatenate([often, self._rng.integers(len(self._sure), size=count - len(often))])
        said = [self._vary(self._taught.sure.phrases[row]) for row in rows]
        return self._distance(*self._tower.tokens(said), self._sure[rows])

    def spoken_loss(self, count: int) -> Tensor:
        """Phrases as they are."""
        rows = torch.from_numpy(self._rng.integers(len(self._spoken), size=count))
        words, grams = self._words[rows].long(), self._grams[rows].long()
        longest = max(1, int((words > 0).sum(1).max()))
        return self._distance(words[:, :longest], grams[:, :longest], self._spoken[rows])

    def nonsense_loss(self, count: int) -> Tensor:
        """Letter strings that mean nothing, all towards the one direction that no name has."""
        given = self._tower(*self._tower.tokens([nonsense(self._rng) for _ in range(count)]))
        loss: Tensor = 0.1 * (2 - given @ self._nothing).mean()
        return loss

    def _distance(self, words: Tensor, grams: Tensor, wanted: Tensor) -> Tensor:
        """Distance to the wanted vectors plus a contrast against a draw of the names."""
        forget = torch.from_numpy(self._rng.random(words.shape) < _FORGET)
        given = self._tower(torch.where(forget & (words > 0), 1, words), grams)
        rivals = self._sure[torch.from_numpy(self._rng.integers(len(self._sure), size=_RIVALS))]
        parts = zip(_parts(given), _parts(wanted), _parts(rivals), strict=True)
        return torch.stack([_distance(*part) for part in parts]).sum()

    def _vary(self, phrase: str) -> str:
        """Puts qualifiers before a phrase where that makes no other name, says it in the plural, or misspells it."""
        draw = self._rng.random()
        if draw < 0.3:
            longer = " ".join([*self._rng.choice(QUALIFIERS, self._rng.integers(1, 3)), phrase])
            return phrase if longer in self._names else longer
        if draw < 0.45 and len(phrase) > 4:
            return misspell(phrase, self._rng)
        if draw < 0.55 and stem(f"{phrase}s".split()[-1]) == stem(phrase.rsplit(maxsplit=1)[-1]):
            return phrase if f"{phrase}s" in self._names else f"{phrase}s"
        return phrase


def _parts(vectors: Tensor) -> tuple[Tensor, ...]:
    """CLIP's part and the meaning of (count, TEXT_CHANNELS)."""
    return torch.split(vectors, [CLIP_CHANNELS, MEANING_CHANNELS], 1)


def _distance(given: Tensor, wanted: Tensor, rivals: Tensor) -> Tensor:
    """Distance of (count, channels) to what is wanted, plus a contrast against (rivals, channels); all unit length."""
    soft = torch.softmax(wanted @ rivals.T * _SHARPNESS, 1)
    guessed = torch.log_softmax(given @ rivals.T * _SHARPNESS, 1)
    contrast = functional.kl_div(guessed, soft, reduction="batchmean")
    total: Tensor = (1 - (given * wanted).sum(1)).mean() + 0.2 * contrast
    return total


def _rows_of_categories(sure: Lesson) -> Int64Array:
    """Rows of the categories, of their groups and of what else they are called; each category itself five times."""
    places = {phrase: place for place, phrase in enumerate(sure.phrases)}
    names = [name for name in (*CATEGORIES, *GROUPS, *STUFF, *PARTS) for _ in range(5)]
    names += [plain(alias) for name in (*CATEGORIES, *STUFF, *PARTS) for alias in alias_phrases(name)]
    rows = [places[name] for name in names if name in places]
    return np.array(rows or range(len(sure.phrases)), np.int64)


def nothing(vectors: Float32Array) -> Float32Array:
    """(channels,), unit length: what (names, channels) have least of; what means nothing lies there."""
    values, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return np.asarray(axes[:, int(np.argmin(values))], np.float32)


def misspell(phrase: str, rng: np.random.Generator) -> str:
    """Drops, doubles, swaps or changes one letter that is not the first or last."""
    at = int(rng.integers(1, len(phrase) - 1))
    before, letter, after = phrase[:at], phrase[at], phrase[at + 1 :]
    if letter == " ":
        return phrase
    letters = ("", letter * 2, str(rng.choice(list(_LETTERS))))
    kind = int(rng.integers(4))
    return before + letters[kind] + after if kind < len(letters) else before + after[0] + letter + after[1:]


def nonsense(rng: np.random.Generator) -> str:
    """One or two words of random letters, sometimes of another script."""
    words = []
    for _ in range(int(rng.integers(1, 3))):
        first, span = (ord("a"), 26) if rng.random() < 0.7 else (int(rng.integers(0x370, 0xD000)), 64)
        words.append("".join(chr(first + each) for each in rng.integers(span, size=rng.integers(1, 11))))
    return " ".join(words)


def report(tower: TextTower, folder: Path) -> str:
    """How well the tower repeats the teacher: mean cosine, and how often the nearest name is the right one."""
    phrases, targets = teacher_phrases(folder)
    with torch.no_grad():
        scores = tower.encode(phrases)[:, :CLIP_CHANNELS] @ torch.from_numpy(targets).T
    right = scores.diagonal() >= scores.max(1).values - 1e-4
    return f"{len(phrases)} phrases, cosine {scores.diagonal().mean():.3f}, nearest is right {right.float().mean():.3f}"


def phrase_table(tower: TextTower, names: list[str]) -> tuple[Tensor, list[int]]:
    """Vectors of every phrase of every category.

    Returns:
        (phrases, TEXT_CHANNELS) and the category's place in `names` of each.
    """
    owners = [place for place, name in enumerate(names) for _ in alias_phrases(name)]
    with torch.no_grad():
        return tower.encode([alias for name in names for alias in alias_phrases(name)]), owners
