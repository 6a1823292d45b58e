"""Trains the lossless context model and writes models/lossless.safetensors.

    python -m training.entropy.lossless --data ../shared/data --out models/lossless.safetensors --steps 6000

Every sample of every photo is an example by itself, because the decoder knows the true samples around it. Each
kind of step and channel has its own network, which learns the mean and the scale of a logistic distribution. The
tables are then what the integer networks leave to be coded. An interrupted run goes on from its checkpoint.
"""

import math
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from shared.arrays import AnyArray
from shared.codec.entropy.exact import ExactNetwork
from shared.codec.entropy.lossless import LosslessCoder, save_lossless
from shared.codec.entropy.lossless_canvas import CHANNELS
from shared.codec.entropy.lossless_context import FEATURE_UNIT
from shared.codec.entropy.lossless_steps import KINDS, inputs_of
from shared.patches import PatchGrid, split
from training.entropy.lossless_samples import Examples, batch, held_out_photos
from training.entropy.lossless_tables import counted, rounded
from training.ladder.data import Photos, cache_folder, load_photos

HIDDEN: Final = (64, 32)
"""Units of the hidden layers."""

_CROPS: Final = 8
_RATE: Final = 4e-3
_CHECKPOINT_EVERY: Final = 100
_LEAST_PROBABILITY: Final = 1e-7
_COUNTED: Final = (160, 100, 50, 20)  # photos that the tables are counted on, by source


def network(inputs: int) -> nn.Sequential:
    """A network that at first expects the reference, and a scale in keeping with the activity."""
    layers: list[nn.Module] = []
    for units in HIDDEN:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    last = nn.Linear(inputs, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def bits_of(outputs: Tensor, targets: Tensor, activity: Tensor) -> Tensor:
    """Bits of each sample under a logistic distribution cut into whole grey levels.

    Args:
        outputs: (rows, 2) mean in sixteenths of the activity, and octaves of the scale.
        targets: (rows,) sample less reference.
        activity: (rows,).
    """
    mean = outputs[:, 0] * activity / 16
    octaves = torch.log2(activity) - 5 + outputs[:, 1]
    inverse = torch.exp2(-octaves.clamp(-6, 8))
    distance = (targets - mean).abs()
    probability = torch.sigmoid((0.5 - distance) * inverse) - torch.sigmoid((-0.5 - distance) * inverse)
    return -torch.log2(probability + _LEAST_PROBABILITY)


class Run:
    """A training run that goes on from its checkpoint.

    Args:
        photos: what to learn from.
        steps: how many in all.
        seed: of everything random.
        checkpoint: where the run's state is kept.
    """

    def __init__(self, photos: Photos, steps: int, seed: int, checkpoint: Path) -> None:
        torch.manual_seed(seed)
        shapes = [inputs_of(kind, channel) for kind in range(KINDS) for channel in range(CHANNELS)]
        self.networks = nn.ModuleList(network(inputs) for inputs in shapes)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), _RATE, betas=(0.9, 0.99))
        self.photos, self.steps, self.seed, self.checkpoint = photos, steps, seed, checkpoint
        self.step = 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            self.step = state["step"]
            self.networks.load_state_dict(state["networks"])
            self.optimizer.load_state_dict(state["optimizer"])

    def train(self) -> None:
        """Goes on to the last step."""
        bar = tqdm(range(self.step, self.steps), initial=self.step, total=self.steps, desc="training", mininterval=10)
        mean = 0.0
        for self.step in bar:
            bits = self._learn()
            mean = bits if mean == 0 else 0.98 * mean + 0.02 * bits
            bar.set_postfix_str(f"{mean:.3f} bits a sample", refresh=False)
            if (self.step + 1) % _CHECKPOINT_EVERY == 0 or self.step + 1 == self.steps:
                self._save()

    def _learn(self) -> float:
        warm, done = min(1.0, (self.step + 1) / 100), self.step / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = _RATE * warm * (0.5 + 0.5 * math.cos(math.pi * done))
        rng = np.random.default_rng((self.seed, self.step))  # a resumed run sees the same crops
        examples = batch(self.photos, _CROPS, rng)
        self.optimizer.zero_grad()
        losses = [_loss(net, part) for net, part in zip(self.networks, examples, strict=True)]
        sum(losses, torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        finest = [float(loss.detach()) for loss in losses[-6 * CHANNELS :]]
        return float(np.mean(finest))

    def _save(self) -> None:
        scratch = self.checkpoint.with_suffix(".new")
        state = {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "step": self.step + 1}, scratch)
        scratch.replace(self.checkpoint)

    def rounded(self) -> list[ExactNetwork]:
        """The networks in integers."""
        return [rounded(_layers(net)) for net in self.networks]


def _loss(net: nn.Module, examples: Examples) -> Tensor:
    outputs = net(torch.from_numpy(examples.features) / FEATURE_UNIT)
    return bits_of(outputs, torch.from_numpy(examples.targets), torch.from_numpy(examples.activity)).mean()


def _layers(net: nn.Module) -> list[tuple[AnyArray, AnyArray]]:
    linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in linear]


def held_in_photos(photos: Photos, seed: int) -> list[int]:
    """Numbers of the photos that the tables are counted on."""
    rng = np.random.default_rng(seed)
    allowed = np.setdiff1d(np.arange(len(photos)), held_out_photos(photos))
    by_source = [allowed[photos.sources[allowed] == source] for source in range(len(_COUNTED))]
    chosen = [rng.permutation(found)[:count] for found, count in zip(by_source, _COUNTED, strict=True)]
    return [int(i) for i in np.concatenate(chosen)]


def share_of_raw(coder: LosslessCoder, photos: Photos) -> float:
    """Mean coded size of the held-out photos, over their raw size."""
    shares = []
    for i in held_out_photos(photos):
        grid = PatchGrid.of(photos[i])
        rows, columns = np.divmod(np.arange(grid.count), grid.columns)
        shares.append(coder.code_bits(split(photos[i]), rows, columns).sum() / 8 / grid.raw_bytes)
    return float(np.mean(shares))


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--steps", default=6_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Processor threads.")
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="In the cache folder by default.")
def main(*, data: Path, out: Path, steps: int, seed: int, threads: int, checkpoint: Path | None) -> None:
    """Trains the networks, counts the tables, and writes the file."""
    torch.set_num_threads(threads)
    photos = load_photos(data)
    run = Run(photos, steps, seed, checkpoint or cache_folder() / f"lossless-{seed}-{steps}.pt")
    run.train()
    coder = counted(run.rounded(), [photos[i] for i in held_in_photos(photos, seed)])
    save_lossless(out, coder, {"seed": str(seed), "steps": str(steps)})
    click.echo(f"held-out photos take {100 * share_of_raw(coder, photos):.2f} percent of raw")


if __name__ == "__main__":
    main()
