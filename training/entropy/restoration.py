"""Trains the restoration of entropy-coded pictures: `python -m training.entropy.restoration --help`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from receiver.entropy_restoration import (
    ENTROPY_RESTORATION_FORMAT,
    EntropyRestorationNet,
    EntropyRestorer,
    enlarged,
)
from shared.arrays import AnyArray, Int64Array
from shared.codec.entropy.levels import QUALITY_EXACT, QUALITY_SKIPPED
from shared.patches import PATCH_SIZE
from shared.weights import write_weights
from training.entropy.restoration_pictures import CodedPicture, make_pictures
from training.ladder.data import Photos, cache_folder, load_photos

HELD_OUT: Final = (*range(323, 343), *range(2861, 2871))
"""Indices into `load_photos` of the photos that are kept for measuring."""

_LEAST_ERRORS: Final = (0.3, 20.0)  # squared grey levels, of coded and skipped patches: no picture counts for all
_WARM_UP_STEPS: Final = 200
_DECAY: Final = 0.4  # last part of the steps, over which the learning rate falls to nothing
_LOG_STEPS: Final = 100
_CHECKPOINT_STEPS: Final = 200


@dataclass(frozen=True)
class TrainingSettings:
    """How the network is built and trained."""

    fine: int = 48
    """Channels on the grid of 2x2 pixels."""

    middle: int = 96
    """Channels on the grid of 4x4 pixels."""

    coarse: int = 128
    """Channels on the grid of patches."""

    blocks: int = 2
    """Residual blocks on the grid of patches."""

    steps: int = 16_800
    """Gradient steps."""

    batch: int = 8
    """Crops in a step."""

    crop: int = 14
    """Side of a crop in patches."""

    rate: float = 1e-3
    """Highest learning rate."""

    pictures: int = 1_500
    """Coded pictures to learn from."""

    bfloat16: bool = True
    """Convolutions in bfloat16: 1.6 times as fast where the processor knows it, and too coarse for the last steps."""


@dataclass(frozen=True)
class Batch:
    """Crops as received, and the truth."""

    picture: Tensor
    """(n, 3, height, width) float, 0..1."""

    qualities: Tensor
    """(n, rows, columns) int64."""

    background: Tensor
    """(n, 3, rows, columns) float, 0..1."""

    target: Tensor
    """(n, 3, height, width) float, 0..1."""

    weights: Tensor
    """(n, rows, columns) what a squared grey level counts in each patch; adds up to about 1 for each crop where
    nothing is restored."""


def random_batch(
    pictures: Sequence[CodedPicture], errors: AnyArray, settings: TrainingSettings, rng: np.random.Generator
) -> Batch:
    """Random square crops, mirrored and turned.

    Args:
        pictures: to cut from.
        errors: (pictures, 2) as `unrestored_errors` gives them.
        settings: number and size of the crops.
        rng: of everything random.
    """
    chosen = rng.choice(len(pictures), settings.batch)
    crops = [_random_crop(pictures[index], settings.crop, rng) for index in chosen]
    qualities = torch.from_numpy(np.stack([crop.qualities for crop in crops])).long()
    by_kind = torch.from_numpy(errors[chosen]).float()[:, :, None, None]
    skipped, exact = qualities == QUALITY_SKIPPED, qualities == QUALITY_EXACT
    weights = torch.where(skipped, 1 / by_kind[:, 1], 1 / by_kind[:, 0]) * ~exact
    share = (~exact).sum(dim=(1, 2), keepdim=True).clamp_min(1)
    return Batch(
        planes([crop.decoded for crop in crops]),
        qualities,
        planes([crop.background for crop in crops]),
        planes([crop.photo for crop in crops]),
        weights / share,
    )


def unrestored_errors(picture: CodedPicture) -> AnyArray:
    """(2,) mean squared error of the coded patches, and of the enlarged background where skipped; grey levels."""
    smooth = (enlarged(planes([picture.background])) * 255)[0].permute(1, 2, 0).numpy()
    skipped = pixels(picture.qualities == QUALITY_SKIPPED)
    coded = pixels(picture.qualities >= 0)
    photo = picture.photo.astype(np.float32)
    shown = (picture.decoded.astype(np.float32), smooth)
    errors = [
        np.square(photo[where] - seen[where]).mean() if where.any() else 0.0
        for seen, where in zip(shown, (coded, skipped), strict=True)
    ]
    return np.maximum(errors, _LEAST_ERRORS)


def pixels(patches: AnyArray) -> AnyArray:
    """(8 rows, 8 columns) of (rows, columns)."""
    return patches.repeat(PATCH_SIZE, axis=0).repeat(PATCH_SIZE, axis=1)


def planes(pictures: list[AnyArray]) -> Tensor:
    """(n, 3, height, width) float in 0..1 of n pictures (height, width, 3) of 0..255."""
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()).float() / 255


def _random_crop(picture: CodedPicture, patches: int, rng: np.random.Generator) -> CodedPicture:
    rows, columns = picture.qualities.shape
    top, left = rng.integers(rows - patches + 1), rng.integers(columns - patches + 1)
    down, across, turned = rng.random(3) < 0.5

    def cut(array: AnyArray) -> AnyArray:
        scale = array.shape[0] // rows
        part = array[top * scale : (top + patches) * scale, left * scale : (left + patches) * scale]
        part = part[:: -1 if down else 1, :: -1 if across else 1]
        return part.swapaxes(0, 1) if turned else part

    return CodedPicture(*(cut(array) for array in vars(picture).values()))


def _patch_errors(restored: Tensor, target: Tensor) -> Tensor:
    """(n, rows, columns) mean squared error of every patch in grey levels."""
    squared = ((restored - target) * 255).square().mean(dim=1, keepdim=True)
    return functional.avg_pool2d(squared, PATCH_SIZE)[:, 0]


class Run:
    """A training run: network, its running average, optimiser and schedule.

    Args:
        settings: how to train; of which size a network is that begins anew.
        checkpoint: written now and then; where it is there, the run goes on from it.
        log: told of the progress.
        seed: of everything random.
        start: a network to begin with, instead of a new one.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        checkpoint: Path,
        log: Callable[[str], None],
        seed: int,
        start: EntropyRestorationNet | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.settings, self.checkpoint, self.log, self.seed = settings, checkpoint, log, seed
        self.net = EntropyRestorationNet(settings.fine, settings.middle, settings.coarse, settings.blocks)
        if start is not None:
            self.net.load_state_dict(start.state_dict())
        self.net = self.net.to(memory_format=torch.channels_last)
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)  # type: ignore[no-untyped-call]
        self.average = torch.optim.swa_utils.AveragedModel(self.net, multi_avg_fn=average)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=settings.rate, betas=(0.9, 0.99))
        self.step = 0
        self._resume()

    def train(self, pictures: Sequence[CodedPicture]) -> EntropyRestorationNet:
        """Runs the remaining steps and returns the averaged network."""
        errors = np.stack([unrestored_errors(picture) for picture in pictures])
        totals: list[Tensor] = []
        for step in range(self.step, self.settings.steps):
            self.step = step
            rng = np.random.default_rng((self.seed, step))  # a resumed run sees the same crops
            totals.append(self._update(random_batch(pictures, errors, self.settings, rng)))
            if (step + 1) % _LOG_STEPS == 0:
                coded, skipped = torch.stack(totals).nanmean(dim=0).tolist()
                self.log(f"step {step + 1}: error left of coded patches {coded:.4f}, of skipped {skipped:.4f}")
                totals.clear()
            if (step + 1) % _CHECKPOINT_STEPS == 0:
                self._save()
        trained = self.average.module
        assert isinstance(trained, EntropyRestorationNet)
        return trained.eval()

    def _update(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            restored = self.net(batch.picture, batch.qualities, batch.background)
        errors = _patch_errors(restored.float(), batch.target) * batch.weights
        loss = errors.sum() / len(errors)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * self._pace()
        self.optimiser.step()
        self.average.update_parameters(self.net)
        return self._shares(errors.detach(), batch)

    @staticmethod
    def _shares(errors: Tensor, batch: Batch) -> Tensor:
        """(2,) error over unrestored error, of coded and of skipped patches; not a number where there are none."""
        skipped = batch.qualities == QUALITY_SKIPPED
        count = (batch.qualities != QUALITY_EXACT).sum(dim=(1, 2), keepdim=True)
        relative = errors * count
        return torch.stack([relative[batch.qualities >= 0].mean(), relative[skipped].mean()])

    def _pace(self) -> float:
        """Part of the highest learning rate: rises, stays, falls to nothing."""
        left = (self.settings.steps - self.step) / (_DECAY * self.settings.steps)
        return min(1.0, (self.step + 1) / _WARM_UP_STEPS, left)

    def _parts(self) -> dict[str, Any]:
        return {"net": self.net, "average": self.average, "optimiser": self.optimiser}

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        scratch = self.checkpoint.with_suffix(".new")
        torch.save({**state, "step": self.step + 1}, scratch)
        scratch.replace(self.checkpoint)

    def _resume(self) -> None:
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.step = state["step"]
            self.log(f"resuming at step {self.step}")


def write_network(net: EntropyRestorationNet, path: Path, settings: TrainingSettings, notes: dict[str, str]) -> None:
    """Writes a weights file that `EntropyRestorer.load` accepts, in half precision."""
    sizes = {name: str(getattr(settings, name)) for name in ("fine", "middle", "coarse", "blocks")}
    tensors = {name: tensor.half().numpy() for name, tensor in net.state_dict().items()}
    write_weights(path, ENTROPY_RESTORATION_FORMAT, tensors, {**sizes, **notes})


def training_photos(photos: Photos) -> Int64Array:
    """Indices of all photos but the held-out ones."""
    return np.setdiff1d(np.arange(len(photos)), HELD_OUT)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--out", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), default=None, help="For coded pictures.")
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=TrainingSettings.steps, show_default=True)
@click.option("--pictures", default=TrainingSettings.pictures, show_default=True)
@click.option("--rate", default=TrainingSettings.rate, show_default=True, help="Highest learning rate.")
@click.option("--start", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Weights to begin with.")
@click.option("--bfloat16/--float32", default=True, show_default=True, help="Of convolutions; one run may change.")
@click.option("--threads", default=1, show_default=True, help="Processor threads.")
def main(
    *,
    data: Path,
    out: Path,
    cache: Path | None,
    seed: int,
    steps: int,
    pictures: int,
    rate: float,
    start: Path | None,
    bfloat16: bool,
    threads: int,
) -> None:
    """Codes photos, then trains entropy_restoration.safetensors; resumes where it was stopped."""
    torch.set_num_threads(threads)
    begun_s = time.monotonic()

    def log(line: str) -> None:
        click.echo(f"{time.monotonic() - begun_s:7.1f} s  {line}")

    cache = cache or cache_folder() / "entropy-restoration"
    photos = load_photos(data)
    settings = TrainingSettings(steps=steps, pictures=pictures, rate=rate, bfloat16=bfloat16)
    begin_with = EntropyRestorer.load(start).net if start else None
    coded = make_pictures(photos, training_photos(photos), cache, count=pictures, seed=seed, log=log)
    net = Run(settings, cache / f"{seed}.pt", log, seed, begin_with).train(coded)
    write_network(net, out / "entropy_restoration.safetensors", settings, {"seed": str(seed), "steps": str(steps)})


if __name__ == "__main__":
    main()
