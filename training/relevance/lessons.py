"""What the text tower is taught: which vector each phrase should get, from CLIP where it has one, else mapped."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from shared.arrays import Float32Array
from training.relevance.corpus import QUALIFIERS, captions, scene_names, spoken_phrases, table_words
from training.relevance.meanings import Meanings
from training.relevance.photos import CATEGORIES
from training.relevance.sentences import known_words, sentence_features
from training.relevance.text_map import TextMap
from training.relevance.vocabulary import (
    PARTS,
    STUFF,
    alias_phrases,
    blend,
    clip_names,
    same_things,
    spread,
    teacher_phrases,
    unit,
)
from transmitter.relevance.phrases import stem

WORDS: Final = 15_000
"""Rows of the tower's word table that training fills."""

_HEAD: Final = 1.5
"""Weight of the category that a phrase ends with, beside what the map says of the whole."""


@dataclass(frozen=True)
class Lesson:
    """Phrases and the vectors that they should get."""

    phrases: list[str]
    """As from `split_query`."""

    vectors: Float32Array
    """(phrases, TEXT_CHANNELS): CLIP's vector and the meaning, each of unit length."""


@dataclass(frozen=True)
class Lessons:
    """Everything the tower is trained on."""

    words: list[str]
    """Its word list."""

    sure: Lesson
    """Names, synonyms and stuff: each is to be told from all others."""

    spoken: Lesson
    """What captions and labels say, CLIP's part through the text map."""


def lessons(folder: Path, *, held: Collection[str] = (), cache: Path | None = None, seed: int = 0) -> Lessons:
    """Reads the data and maps what CLIP does not know.

    Args:
        folder: the teachers' folder; captions are read from the folders beside it, where there are any.
        held: names whose vectors are left out, with everything that shares them.
        cache: file of the sentence embeddings, as for `sentence_features`.
        seed: of the random word pairs.

    Raises:
        InvalidInputError: the sentence teacher's package is not installed.
    """
    everything = [*teacher_phrases(folder)[0], *scene_names(folder)]
    words = table_words(everything, captions(folder.parent), known_words(), WORDS)
    spoken = spoken_phrases(folder, everything, words, np.random.default_rng(seed))
    spoken = list(dict.fromkeys([*everything, *spoken]))
    embedded = dict(zip(spoken, sentence_features(spoken, cache), strict=True))
    features = np.array(list(embedded.values()))
    guessed = dict(zip(spoken, fit_map(folder, held, embedded)(spoken, features), strict=True))
    meanings = Meanings(np.array([embedded[name] for name in clip_names(folder)]))
    meant = dict(zip(spoken, meanings(features), strict=True))
    seen = _with_scene(teacher_phrases(folder, held), folder, guessed, apart=True)
    sure = _with_scene(teacher_phrases(folder, held, meant), folder, meant, apart=False)
    rest = [phrase for phrase in spoken if phrase not in sure and not _only_qualified(phrase, sure)]
    told = Lesson(list(sure), _joined([seen[phrase] for phrase in sure], list(sure.values())))
    return Lessons(words, told, Lesson(rest, _joined(_with_heads(rest, guessed, seen), _with_heads(rest, meant, sure))))


def _joined(seen: ArrayLike, meant: ArrayLike) -> Float32Array:
    """(phrases, TEXT_CHANNELS) of CLIP's part and of the meaning."""
    return np.concatenate([np.asarray(seen, np.float32), np.asarray(meant, np.float32)], axis=1)


def _only_qualified(phrase: str, sure: dict[str, Float32Array]) -> bool:
    """Whether a phrase is qualifiers before a name: the tower's own exercises have those."""
    words = phrase.split()
    while len(words) > 1 and words[0] in QUALIFIERS:
        words = words[1:]
        if _named(words, sure) is not None:
            return True
    return False


def _with_heads(phrases: list[str], guessed: dict[str, Float32Array], sure: dict[str, Float32Array]) -> Float32Array:
    """Draws each phrase that ends with a category's name, or an alias of it, towards that category."""
    heads = {alias for name in CATEGORIES for alias in alias_phrases(name)}
    known = {phrase: vector for phrase, vector in sure.items() if phrase in heads}
    vectors = []
    for phrase in phrases:
        words = phrase.split()
        ends = (words[start:] for start in range(1, len(words)))
        head = next((end for end in ends if _named(end, sure) is not None), [])
        found = _named(head, known)
        vectors.append(guessed[phrase] if found is None else unit(guessed[phrase] + _HEAD * found))
    return np.array(vectors, np.float32)


def _named(words: list[str], sure: dict[str, Float32Array]) -> Float32Array | None:
    """The vector of a name or of its plural."""
    found = sure.get(" ".join(words))
    return found if found is not None or not words else sure.get(" ".join([*words[:-1], stem(words[-1])]))


def fit_map(folder: Path, held: Collection[str], embedded: Mapping[str, Float32Array]) -> TextMap:
    """Fits the text map to the teacher's own names.

    Synonyms stay out: they would teach the map that a phrase means its nearest name, which of new names is wrong.

    Args:
        folder: the teachers' folder.
        held: names that are left out, with all that share their vectors.
        embedded: the sentence features of (at least) every name.
    """
    found = clip_names(folder)
    groups = same_things(folder, (*found, *held))
    without = {groups[name] for name in held}
    names = [name for name in found if groups[name] not in without]
    order = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
    places = np.array([order[groups[name]] for name in names])
    vectors = np.array([found[name] for name in names], np.float32)
    return TextMap(names, np.array([embedded[name] for name in names]), vectors, places)


def _with_scene(
    told: tuple[list[str], Float32Array], folder: Path, guessed: dict[str, Float32Array], *, apart: bool
) -> dict[str, Float32Array]:
    """Adds stuff and parts and what else they are called, on request kept apart from each other and the categories."""
    sure = dict(zip(*told, strict=True))
    scene = [name for name in scene_names(folder) if name not in sure]
    vectors = [guessed[name] for name in scene]
    if scene and apart:
        fixed = np.array([sure[name] for name in (*CATEGORIES, *STUFF, *PARTS) if name in sure])
        vectors = list(spread(np.array(vectors), fixed))
    sure = sure | dict(zip(scene, vectors, strict=True))
    for name in (*STUFF, *PARTS):
        for alias in alias_phrases(name)[1:]:
            if name in sure:
                blend(sure, alias, sure[name])
    return sure


def without_text(taught: Lessons, folder: Path, held: Collection[str]) -> Lessons:
    """The lessons less every phrase in which some run of words names a held thing, however it is spelt."""
    runs = {phrase: _runs(phrase.split()) for phrase in (*taught.sure.phrases, *taught.spoken.phrases)}
    things = same_things(folder, {*held, *(run for found in runs.values() for run in found)})
    hidden = {things[name] for name in held}
    told = []
    for lesson in (taught.sure, taught.spoken):
        rows = [row for row, phrase in enumerate(lesson.phrases) if hidden.isdisjoint(map(things.get, runs[phrase]))]
        told.append(Lesson([lesson.phrases[row] for row in rows], lesson.vectors[rows]))
    return Lessons(taught.words, *told)


def _runs(words: list[str]) -> list[str]:
    return [" ".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
