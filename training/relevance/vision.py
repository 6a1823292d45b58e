"""Trains the dense network: first the decoder on cached features, then everything on the photos themselves."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.relevance.photos import CATEGORIES
from training.relevance.targets import ANYTHING, COLUMN_NAMES, load_maps, load_target, self_label
from training.relevance.vocabulary import alias_phrases
from transmitter.relevance.network import TEXT_CHANNELS, RelevanceNetwork
from transmitter.relevance.text_tower import TextTower

ABSENT_WEIGHT: Final = 0.3
SELF_LABEL_FROM: Final = 350
"""Step of the first stage from which boxes are labelled by the network itself."""

OTHER_LABELS: Final = 16
"""Labels of other photos that each batch is scored against."""

OTHER_WEIGHT: Final = 0.15
STRANGE_BELOW: Final = 0.3
"""Labels whose cosine to all that a photo shows is below this are taken to be absent from it."""


@dataclass(frozen=True)
class Pools:
    """Cached crops by how much is known of them, and how many of each make a batch."""

    files: tuple[tuple[Path, ...], ...]
    """All masked; one person masked; boxes only; nothing but a label for the whole photo."""

    shares: tuple[int, ...] = (4, 2, 1, 2)
    """Crops of each pool in a batch."""

    def draw(self, rng: random.Random) -> list[Path]:
        """Draws one batch."""
        return [rng.choice(files) for files, share in zip(self.files, self.shares, strict=True) for _ in range(share)]


class PhraseBook:
    """The text side of the targets: which phrases may stand for which plane."""

    def __init__(self, tower: TextTower, anything: Tensor, labels: Mapping[Path, str]) -> None:
        names = [name for name in COLUMN_NAMES if name != ANYTHING]
        with torch.no_grad():
            self._options = [tower.encode(alias_phrases(name)) for name in names]
        self._anything = anything
        self.labels = tuple(sorted(set(labels.values())))
        self.label_rows = {path: self.labels.index(label) for path, label in labels.items()}
        with torch.no_grad():
            self.label_vectors = tower.encode(self.labels) if labels else torch.zeros(0, TEXT_CHANNELS)
            self.category_vectors = tower.encode(CATEGORIES)

    def draw(self, rng: random.Random) -> Tensor:
        """(planes, 512): each plane under its own name half of the time, else under an alias."""
        rows = [options[0 if rng.random() < 0.5 else rng.randrange(len(options))] for options in self._options]
        return torch.stack([*rows, functional.normalize(self._anything, dim=0)])


def dense_loss(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy and overlap of what is there, cross-entropy of what is not.

    Args:
        logits: (batch, planes, rows, columns).
        wanted: share of object, same shape.
        known: weight, same shape.
    """
    point = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * known
    weight = known.sum((2, 3))
    means = point.sum((2, 3)) / weight.clamp(min=1)
    present = ((wanted * known).amax((2, 3)) > 0.5) & (weight > 0)
    shares = torch.sigmoid(logits) * known
    both = (shares * wanted).sum((2, 3))
    overlap = 1 - (2 * both + 1) / (shares.sum((2, 3)) + (wanted * known).sum((2, 3)) + 1)
    # Small objects make small means; the square root gives them a say without letting them rule.
    share = (wanted * known).sum((2, 3)) / weight.clamp(min=1)
    boost = (share.clamp(min=0.004).rsqrt() * 0.3).clamp(min=1)
    there = ((means * boost + overlap) * present).sum() / present.sum().clamp(min=1)
    absent = (means * ~present).sum() / len(logits)
    return there + ABSENT_WEIGHT * absent


def train_decoder(
    network: RelevanceNetwork,
    book: PhraseBook,
    anything: Tensor,
    pools: Pools,
    *,
    steps: int,
    rate: float,
    checkpoint: Path,
    seed: int = 0,
    check: Callable[[], str] | None = None,
) -> None:
    """Fits the decoder on cached features; picks up from `checkpoint` where one exists."""
    rng = random.Random(seed)
    parameters = [*network.decoder.parameters(), network.scale, network.bias, anything]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, steps))
    start = _resume(checkpoint, network, anything, optimiser, schedule)
    network.to(memory_format=torch.channels_last)
    progress = tqdm(range(start, steps), desc="decoder", initial=start, total=steps, mininterval=20)
    network.decoder.train()
    for step in progress:
        batch = pools.draw(rng)
        levels = zip(*map(load_maps, batch), strict=True)
        maps = [torch.from_numpy(np.stack(level)).to(memory_format=torch.channels_last) for level in levels]
        loss = _step_loss(network, network.decoder(maps), book, rng, batch, own=step >= SELF_LABEL_FROM)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        optimiser.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            _save(checkpoint, step + 1, network, anything, optimiser, schedule)
            if check:
                network.eval()
                progress.write(f"step {step + 1}: {check()}")
                network.decoder.train()
    network.eval()


def _warm_cosine(step: int, steps: int) -> float:
    """Share of the full rate: up within 100 steps, then down to a twentieth along half a cosine."""
    fall = 0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
    return min((step + 1) / 100, fall)


def _step_loss(
    network: RelevanceNetwork,
    vectors: Tensor,
    book: PhraseBook,
    rng: random.Random,
    batch: Sequence[Path],
    *,
    own: bool,
) -> Tensor:
    targets = [load_target(path) for path in batch]
    wanted = torch.from_numpy(np.stack([target.wanted for target in targets]))
    known = torch.from_numpy(np.stack([target.known for target in targets]))
    logits = network.logits(vectors, book.draw(rng))
    if own:
        boxed = torch.from_numpy(np.stack([target.boxed for target in targets]))
        wanted, known = self_label(logits, wanted, known, boxed)
    loss = dense_loss(logits, wanted, known)
    if book.labels:
        columns = sorted({book.label_rows[path] for path in batch if path in book.label_rows})
        columns += rng.sample(range(len(book.labels)), OTHER_LABELS)
        salient = torch.sigmoid(logits[:, -1].detach())
        shown = wanted[:, : len(CATEGORIES)].amax((2, 3)) > 0.5
        complete = known[:, COLUMN_NAMES.index(ANYTHING)].amax((1, 2)) > 0
        evidence = (salient, shown & complete[:, None])
        scores = network.logits(vectors, book.label_vectors[columns])
        loss = loss + _label_loss(scores, columns, book, batch, evidence)
    return loss


def _label_loss(
    logits: Tensor, columns: list[int], book: PhraseBook, batch: Sequence[Path], evidence: tuple[Tensor, Tensor]
) -> Tensor:
    """Labels of whole photos: what is salient bears the label, and labels of other things are nowhere.

    Args:
        logits: (batch, columns, rows, columns of the grid).
        columns: rows of the label table that were scored.
        book: its label vectors.
        batch: the crops' files.
        evidence: (batch, rows, columns), confidence under the empty query; (batch, categories), what is in the
            fully masked crops, all False for the others.
    """
    table = book.label_vectors[columns]
    salient, shown = evidence
    total = logits.new_zeros(())
    for item, path in enumerate(batch):
        row = book.label_rows.get(path)
        if row is not None:
            ranked = salient[item] / salient[item].amax().clamp(min=0.05)
            sure = ((ranked > 0.6) | (ranked < 0.15)).float()
            wanted = (ranked > 0.6).float()
            point = functional.binary_cross_entropy_with_logits(
                logits[item, columns.index(row)], wanted, reduction="none"
            )
            total = total + 0.5 * (point * sure).sum() / sure.sum().clamp(min=1)
        own = book.label_vectors[row][None] if row is not None else book.category_vectors[shown[item]]
        if len(own):
            strange = (table @ own.T).amax(1) < STRANGE_BELOW
            total = total + OTHER_WEIGHT * functional.softplus(logits[item, strange]).mean((1, 2)).sum()
    return total / len(batch)


def _resume(path: Path, network: RelevanceNetwork, anything: Tensor, *others: object) -> int:
    if not path.exists():
        return 0
    state = torch.load(path)
    network.load_state_dict(state["network"])
    anything.data.copy_(state["anything"])
    for other, stored in zip(others, state["others"], strict=True):
        other.load_state_dict(stored)  # type: ignore[attr-defined]
    return int(state["step"])


def _save(path: Path, step: int, network: RelevanceNetwork, anything: Tensor, *others: object) -> None:
    part = path.with_suffix(".part")
    stored = [other.state_dict() for other in others]  # type: ignore[attr-defined]
    torch.save({"step": step, "network": network.state_dict(), "anything": anything, "others": stored}, part)
    part.rename(path)


def train_all(
    network: RelevanceNetwork,
    book: PhraseBook,
    anything: Tensor,
    pools: Pools,
    *,
    steps: int,
    rate: float,
    checkpoint: Path,
    seed: int = 1,
    check: Callable[[], str] | None = None,
) -> None:
    """Fits every tensor on the cached crops' pixels; picks up from `checkpoint` where one exists.

    The statistics of the decoder's batch normalisation stay as the first stage left them: batches are small.
    The trunks learn at a sixth of `rate`.
    """
    rng = random.Random(seed)
    trunks = [*network.mobile.parameters(), *network.detector.parameters()]
    rest = [*network.decoder.parameters(), network.scale, network.bias, anything]
    groups = [{"params": trunks, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.02}]
    optimiser = torch.optim.AdamW(groups, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [rate / 6, rate], total_steps=steps, pct_start=0.08)
    start = _resume(checkpoint, network, anything, optimiser, schedule)
    network.to(memory_format=torch.channels_last).eval()
    progress = tqdm(range(start, steps), desc="everything", initial=start, total=steps, mininterval=20)
    for step in progress:
        batch = pools.draw(rng)
        mirrored = rng.random() < 0.5
        pictures = torch.stack([_jitter(_load_pixels(path), rng) for path in batch])
        pictures = (pictures.flip(3) if mirrored else pictures).contiguous(memory_format=torch.channels_last)
        vectors = network(pictures)
        vectors = vectors.flip(3) if mirrored else vectors
        loss = _step_loss(network, vectors, book, rng, batch, own=True)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*trunks, *rest], 2.0)
        optimiser.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            _save(checkpoint, step + 1, network, anything, optimiser, schedule)
            if check:
                progress.write(f"step {step + 1}: {check()}")


def _load_pixels(path: Path) -> Tensor:
    with np.load(path) as entry:
        return torch.from_numpy(entry["pixels"]).permute(2, 0, 1).float() / 127.5 - 1


def _jitter(picture: Tensor, rng: random.Random) -> Tensor:
    """Changes contrast, brightness and the balance of the colours a little."""
    gains = torch.tensor([rng.uniform(0.9, 1.1) for _ in range(3)]).view(3, 1, 1) * rng.uniform(0.75, 1.25)
    grey = picture.mean(0, keepdim=True)
    faded = grey + (picture - grey) * rng.uniform(0.5, 1.3)
    return (faded * gains + rng.uniform(-0.15, 0.15)).clamp(-1, 1)


def unchanged_tensors(network: RelevanceNetwork, start: RelevanceNetwork) -> list[str]:
    """Names of the trunks' tensors that are still a teacher's, in whole; must be empty before shipping."""
    begun = start.state_dict()
    trunks = (item for item in network.state_dict().items() if item[0].startswith(("mobile.", "detector.")))
    return [name for name, value in trunks if torch.equal(value, begun[name])]
