"""Trains the lossy levels of the entropy codec: `python -m training.entropy.lossy --data DATA --out FILE`.

```
photos ─► transform (closed form)
photos ─► rollouts: a coder with the current networks ─► examples ─► networks, each group on its own ─┐
              ▲──────────────────────────────────────────────────────────────────────────────────────┘
networks ─► integer networks ─► counts of what they leave to be coded ─► tables ─► weights file
```
The networks learn from what they will see: contexts that were quantised and predicted by themselves.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from shared.arrays import AnyArray, Float32Array, Int64Array, UInt8Array
from shared.codec.entropy.context import QUALITY_SCALE, QUALITY_ZERO
from shared.codec.entropy.lossy_model import LossyModel
from shared.codec.entropy.transform import PatchTransform
from shared.codec.entropy.weights import load_lossy, save_lossy
from training.entropy.counting import counted_model
from training.entropy.networks import FloatPredictor, code_length_bits, new_networks
from training.entropy.rollouts import Examples, roll_out, roll_out_coded
from training.entropy.tables import exact_network, float_network
from training.entropy.transform import learn_transform
from training.ladder.data import Photos, cache_folder, load_photos, sample_patches

_PHOTOS_PER_CYCLE: Final = 16
_KEPT_CYCLES: Final = 40  # whose examples may be learnt from again: coding takes longer than learning
_REPEATS: Final = 3
_BATCH: Final = 1_024
_WARM_CYCLES: Final = 20
_AVERAGE: Final = 0.98
_CHECKPOINT_CYCLES: Final = 25
_SOURCE_WEIGHTS: Final = (3.0, 1.0, 1.0, 3.0)  # of SOURCES: larger photos more often
_HELD_OUT: Final = range(323, 343)  # the last of coco_train_masks
_PATCHES_PER_PHOTO: Final = (40, 20, 20, 40)
_COUNTED: Final = 140
_MIDDLE_QUALITY: Final = 70
_QUALITIES_PER_DOUBLING: Final = 23  # of an example's weight: bits fall by as much
_WEIGHTS: Final = (0.25, 4.0)


@dataclass
class Training:
    """Networks on their way."""

    photos: Photos
    transform: PatchTransform
    cycles: int
    networks: nn.ModuleList
    rate: float
    """Of learning, at its height."""
    average: dict[str, Tensor]
    """Of the networks' parameters over the last cycles; this is what ships."""
    done: int = 0
    coder: LossyModel | None = None
    """Codes the examples; None: the networks of the moment do, each residual on its own."""
    _kept: deque[Examples] = field(default_factory=lambda: deque(maxlen=_KEPT_CYCLES))

    def run(self, checkpoint: Path) -> None:
        """Trains to the end, saving now and then."""
        optimisers = [torch.optim.Adam(network.parameters(), betas=(0.9, 0.99)) for network in self.networks]
        rng = np.random.default_rng(self.done)
        bar = tqdm(total=self.cycles, initial=self.done, desc="context networks", unit="cycle")
        while self.done < self.cycles:
            self._kept.append(self._examples(rng))
            for optimiser in optimisers:
                optimiser.param_groups[0]["lr"] = self.rate * _share(self.done, self.cycles)
            older = rng.permutation(len(self._kept) - 1)[: _REPEATS - 1]
            for place in older:
                self._learn_all(optimisers, self._kept[place], rng)
            bits = self._learn_all(optimisers, self._kept[-1], rng)
            self._step_average()
            self.done += 1
            bar.update()
            bar.set_postfix_str(f"{bits:.1f} bits per patch")
            if self.done % _CHECKPOINT_CYCLES == 0 or self.done == self.cycles:
                self.save(checkpoint)

    def _learn_all(
        self, optimisers: Sequence[torch.optim.Optimizer], examples: Examples, rng: np.random.Generator
    ) -> float:
        """One pass over examples; returns the mean bits of a patch, where it has every group."""
        return sum(
            _learn(network, optimiser, examples.arrays(group), rng)
            for group, (network, optimiser) in enumerate(zip(self.networks, optimisers, strict=True))
            if examples.features[group]
        )

    def _examples(self, rng: np.random.Generator) -> Examples:
        predictor = FloatPredictor(list(self.networks))  # type: ignore[arg-type]
        examples = Examples()
        for index in self._chosen(rng):
            photo = self.photos[int(index)]
            if self.coder is None:
                examples.add(roll_out(photo, self.transform, predictor, rng))
            else:
                examples.add(roll_out_coded(photo, self.coder, rng))
        return examples

    def _chosen(self, rng: np.random.Generator) -> Int64Array:
        allowed = training_photos(self.photos)
        weights = np.array(_SOURCE_WEIGHTS)[self.photos.sources[allowed]]
        return rng.choice(allowed, _PHOTOS_PER_CYCLE, p=weights / weights.sum())

    def _step_average(self) -> None:
        keep = min(_AVERAGE, (self.done + 1) / (self.done + 10))
        for name, value in self.networks.state_dict().items():
            self.average[name] = keep * self.average[name] + (1 - keep) * value

    def save(self, checkpoint: Path) -> None:
        """Writes everything that `resumed` needs."""
        state = {
            "networks": self.networks.state_dict(),
            "average": self.average,
            "done": self.done,
            "basis": torch.from_numpy(self.transform.basis),
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)


def begun(photos: Photos, cycles: int, rate: float, start: LossyModel | None = None) -> Training:
    """A fresh training, or one that goes on from a model's networks and learns from what that model codes."""
    if start is None:
        patches, _ = sample_patches(photos, _PATCHES_PER_PHOTO, seed=0)
        transform, networks = learn_transform(patches), new_networks(0)
    else:
        found = (float_network(network.first, network.heads, group) for group, network in enumerate(start.networks))
        transform, networks = start.transform, nn.ModuleList(found)
    average = {name: value.clone() for name, value in networks.state_dict().items()}
    return Training(photos, transform, cycles, networks, rate, average, coder=start)


def resumed(photos: Photos, cycles: int, rate: float, checkpoint: Path, start: LossyModel | None = None) -> Training:
    """A training as it was saved; with `start` as it was begun."""
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    networks = new_networks(0)
    networks.load_state_dict(state["networks"])
    transform = PatchTransform(state["basis"].numpy())
    return Training(photos, transform, cycles, networks, rate, state["average"], int(state["done"]), start)


def training_photos(photos: Photos) -> Int64Array:
    """Numbers of the photos that are not held out."""
    return np.setdiff1d(np.arange(len(photos)), np.array(_HELD_OUT))


def counted_photos(photos: Photos) -> list[UInt8Array]:
    """Some of them from every source, to count tables on."""
    every = np.linspace(0, len(photos) - 1, _COUNTED).astype(int)
    return [np.asarray(photos[int(i)]) for i in np.intersect1d(every, training_photos(photos))]


def _learn(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    examples: tuple[AnyArray, AnyArray, Float32Array],
    rng: np.random.Generator,
) -> float:
    """One pass over the examples of a group; returns the mean bits of a patch."""
    features, own, targets = examples
    bits = []
    for rows in _batches(len(features), rng):
        x = torch.from_numpy(features[rows].astype(np.float32))
        predicted = network(x, torch.from_numpy(own[rows].astype(np.float32)))
        length = code_length_bits(torch.from_numpy(targets[rows]), *predicted).sum(dim=1)
        optimiser.zero_grad()
        (_example_weights(x) * length).mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 20.0)
        optimiser.step()
        bits.append(float(length.detach().mean()))
    return float(np.mean(bits))


def _example_weights(features: Tensor) -> Tensor:
    """Patches under coarse quantisers take few bits, of which each counts for more."""
    quality = features[:, -1] / QUALITY_SCALE + QUALITY_ZERO
    return torch.exp2((quality - _MIDDLE_QUALITY) / _QUALITIES_PER_DOUBLING).clamp(*_WEIGHTS)


def _batches(count: int, rng: np.random.Generator) -> Iterator[Int64Array]:
    order = rng.permutation(count)
    for start in range(0, max(count - _BATCH // 2, 1), _BATCH):
        yield order[start : start + _BATCH]


def _share(done: int, cycles: int) -> float:
    """Of the greatest learning rate."""
    warm = min(1.0, (done + 1) / _WARM_CYCLES)
    return warm * 0.5 * (1 + math.cos(math.pi * done / cycles)) + 5e-4


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--cycles", default=2_000, show_default=True, help="Of 16 photos each.")
@click.option("--rate", default=2e-3, show_default=True, help="Of learning, at its height.")
@click.option("--start", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Weights to go on from.")
@click.option("--checkpoint", type=click.Path(dir_okay=False, path_type=Path), help="In the cache folder by default.")
def main(  # noqa: PLR0917 - one for each option
    data: Path, out: Path, cycles: int, rate: float, start: Path | None, checkpoint: Path | None
) -> None:
    """Trains the lossy levels of the entropy codec, or goes on training them, and writes the weights file."""
    photos = load_photos(data)
    checkpoint = checkpoint or cache_folder() / "entropy-lossy.pt"
    coder = load_lossy(start)[0] if start else None
    if checkpoint.exists():
        training = resumed(photos, cycles, rate, checkpoint, coder)
    else:
        training = begun(photos, cycles, rate, coder)
    training.run(checkpoint)
    training.networks.load_state_dict(training.average)
    networks = [exact_network(network) for network in training.networks]  # type: ignore[arg-type]
    model = counted_model(training.transform, networks, counted_photos(photos), seed=0)
    save_lossy(out, model, {"cycles": str(training.done), "photos": str(len(photos) - len(_HELD_OUT))})


if __name__ == "__main__":
    main()
