"""Trains the dense network on fresh crops: the decoder first, then everything.

Started by `torchrun --nproc-per-node N`, each process draws its own crops and the gradients are averaged.
"""

import math
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.relevance.losses import dense_loss, label_loss, presence_loss, rivalry_loss
from training.relevance.photos import CATEGORIES
from training.relevance.phrase_book import PhraseBook
from training.relevance.processes import average_gradients, average_statistics, rank
from training.relevance.samples import Batch, Sampler
from training.relevance.targets import self_label
from transmitter.relevance.network import RelevanceNetwork

SELF_LABEL_FROM: Final = 150
"""Step from which boxes are labelled by the network's own moving average."""

SIZES: Final = ((384, 576), (320, 480), (192, 288))
"""Height and width that crops are scaled to: those of the near look, their own, those of the look from afar."""

SIZE_SHARES: Final = (0.35, 0.3, 0.35)
"""How often each of them is drawn."""

OTHER_LABELS: Final = 16
"""Labels of other photos that each batch is scored against."""

STRANGE_BELOW: Final = 0.3
"""Labels whose cosine to all that a photo shows is below this are taken to be absent from it."""

PRESENCE_WEIGHT: Final = 0.15
RIVALRY_WEIGHT: Final = 0.3
NONSENSE_WEIGHT: Final = 0.05
LABEL_WEIGHT: Final = 0.25
SMOOTHING: Final = 0.998
"""Of the moving average of the weights, which is what ships."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast."""

    steps: int
    """Of all processes together."""

    trunks_from: int
    """Step from which the trunks learn too."""

    rate: float = 1e-3
    """Peak learning rate of the decoder."""

    trunk_rate: float = 1e-4
    """The same of the trunks."""

    check_every: int = 250
    """Steps between checkpoints."""


class Trainer:
    """Fits a network; everything that a checkpoint holds.

    Args:
        network: with its trunks loaded.
        book: of phrases; its vector of the empty query is learnt too.
        sampler: of crops, another one in each process.
        settings: how long and how fast.
        checkpoint: where to go on from, and to save to.
    """

    def __init__(
        self,
        network: RelevanceNetwork,
        book: PhraseBook,
        sampler: Sampler,
        settings: Settings,
        checkpoint: Path,
    ) -> None:
        self.network, self.anything, self._book = network, book.anything, book
        anything = book.anything
        self._sampler, self._settings, self._checkpoint = sampler, settings, checkpoint
        self._rng = random.Random(rank())
        self._trunk_parameters = [p for trunk in network.trunks() for p in trunk.parameters()]
        rest = [*network.decoder.parameters(), network.scale, network.bias, anything]
        self._rest = rest
        groups = [
            {"params": self._trunk_parameters, "lr": settings.trunk_rate, "weight_decay": 0.0},
            {"params": rest, "lr": settings.rate, "weight_decay": 0.02},
        ]
        self._optimiser = torch.optim.AdamW(groups)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, [self._trunk_share, self._share])
        self.step = 0
        self.smooth = deepcopy(network).eval()
        self.smooth_anything = anything.detach().clone()
        self._resume()
        network.to(memory_format=torch.channels_last)

    def run(self, check: Callable[["Trainer"], str]) -> None:
        """Trains to the end; `check` looks at the smoothed network at every checkpoint and says how it does."""
        steps = self._settings.steps
        progress = tqdm(range(self.step, steps), initial=self.step, total=steps, mininterval=20, disable=rank() > 0)
        for _ in progress:
            loss = self._one_step()
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if self.step % self._settings.check_every == 0 or self.step == steps:
                average_statistics(self.network, self.smooth)
                if rank() == 0:
                    self._save()
                    progress.write(f"step {self.step}: {check(self)}")

    def _one_step(self) -> float:
        whole = self.step >= self._settings.trunks_from
        self.network.decoder.train()
        for parameter in self._trunk_parameters:
            parameter.requires_grad_(whole)
        batch = self._sampler.batch()
        size = self._rng.choices(SIZES, SIZE_SHARES)[0]
        pictures = _resized(batch.pictures, size).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.network.features(pictures)
            vectors = self.network.decoder(maps)
            with torch.no_grad():
                settled = self.smooth.decoder(maps)
        grid = batch.targets[0].wanted.shape[1:]
        loss = self._loss(_resized(vectors.float(), grid), _resized(settled.float(), grid), batch)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients([*self._trunk_parameters, *self._rest])
        self._update()
        self._schedule.step()
        self.step += 1
        return float(loss.item())

    def _update(self) -> None:
        """One step of the optimiser, unless a gradient is not finite; all processes see the same gradients."""
        norms = [
            nn.utils.clip_grad_norm_(self._trunk_parameters, 100.0),
            nn.utils.clip_grad_norm_(self._rest, 2.0),
        ]
        if all(bool(norm.isfinite()) for norm in norms):
            self._optimiser.step()
            self._smooth()

    def _loss(self, vectors: Tensor, settled: Tensor, batch: Batch) -> Tensor:
        wanted = torch.from_numpy(np.stack([target.wanted for target in batch.targets]))
        known = torch.from_numpy(np.stack([target.known for target in batch.targets]))
        phrases = self._book.draw(self._rng)
        logits = self.network.logits(vectors, phrases)
        if self.step >= SELF_LABEL_FROM:
            boxed = torch.from_numpy(np.stack([target.boxed for target in batch.targets]))
            wanted, known = self_label(self.smooth.logits(settled, phrases), wanted, known, boxed)
        loss = dense_loss(logits, wanted, known) + PRESENCE_WEIGHT * presence_loss(logits, wanted, known)
        kinds = len(CATEGORIES)
        loss = loss + RIVALRY_WEIGHT * rivalry_loss(logits[:, :kinds], wanted[:, :kinds], known[:, :kinds])
        nothing = self.network.logits(vectors, self._book.nonsense(self._rng))
        loss = loss + NONSENSE_WEIGHT * presence_loss(nothing, torch.zeros_like(nothing), torch.ones_like(nothing))
        if any(batch.labels):
            salient = torch.sigmoid(logits[:, -1].detach())
            loss = loss + LABEL_WEIGHT * self._label_loss(vectors, salient, batch, wanted)
        return loss

    def _label_loss(self, vectors: Tensor, salient: Tensor, batch: Batch, wanted: Tensor) -> Tensor:
        book = self._book
        columns = sorted({book.labels.index(label) for label in batch.labels if label})
        columns += self._rng.sample(range(len(book.labels)), OTHER_LABELS)
        right = [columns.index(book.labels.index(label)) if label else -1 for label in batch.labels]
        table = book.label_vectors[columns]
        shown = (wanted[:, : len(CATEGORIES)].amax((2, 3)) > 0.5) & batch.complete[:, None]
        strange = torch.zeros(len(right), len(columns), dtype=torch.bool)
        for item, row in enumerate(right):
            own = table[row][None] if row >= 0 else book.category_vectors[shown[item]]
            if len(own):
                strange[item] = (table @ own.T).amax(1) < STRANGE_BELOW
        return label_loss(self.network.logits(vectors, table), salient, right, strange)

    def _share(self, step: int) -> float:
        """Share of the decoder's full rate: up within 50 steps, then down along half a cosine."""
        fall = 0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, step / self._settings.steps))) / 2
        return min((step + 1) / 50, fall)

    def _trunk_share(self, step: int) -> float:
        since = step - self._settings.trunks_from
        return 0.0 if since < 0 else min(since / 100, self._share(step))

    @torch.no_grad()
    def _smooth(self) -> None:
        share = min(SMOOTHING, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.smooth.state_dict().values(), self.network.state_dict().values(), strict=True):
            if value.is_floating_point():
                mean.lerp_(value, 1 - share)
        self.smooth_anything.lerp_(self.anything, 1 - share)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint)
        self.network.load_state_dict(state["network"])
        self.smooth.load_state_dict(state["smooth"])
        self.anything.data.copy_(state["anything"])
        self.smooth_anything.copy_(state["smooth_anything"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = int(state["step"])

    def _save(self) -> None:
        part = self._checkpoint.with_suffix(".part")
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "smooth": self.smooth.state_dict(),
            "anything": self.anything.data,
            "smooth_anything": self.smooth_anything,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        torch.save(state, part)
        part.rename(self._checkpoint)
        kept = {"network": self.smooth.state_dict(), "anything": self.smooth_anything}
        torch.save(kept, self._checkpoint.with_name(f"{self._checkpoint.stem}-{self.step}.pt"))

    def average(self) -> tuple[RelevanceNetwork, Tensor]:
        """Network and vector of the empty query: means over the checkpoints of the last two thirds.

        With so few masks each stretch of the training leans another way; their mean is better than any of them.
        """
        files = self._checkpoint.parent.glob(f"{self._checkpoint.stem}-*.pt")
        steps = {int(path.stem.rsplit("-", 1)[1]): path for path in files}
        states = [torch.load(path) for step, path in steps.items() if step >= self._settings.steps / 3]
        network = deepcopy(self.smooth)
        network.load_state_dict(mean_state([state["network"] for state in states]))
        return network.eval(), torch.stack([state["anything"] for state in states]).mean(0)


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(batch, channels, height, width) at another size."""
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", antialias=True, align_corners=False)


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of several states of one network; counters are the last one's."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[-1].items()
    }


def unchanged_tensors(network: RelevanceNetwork, start: RelevanceNetwork) -> list[str]:
    """Names of the trunks' tensors that are still a teacher's, in whole; must be empty before shipping."""
    begun = start.state_dict()
    trunks = (item for item in network.state_dict().items() if not item[0].startswith("decoder."))
    return [name for name, value in trunks if torch.equal(value, begun[name])]
