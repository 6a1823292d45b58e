"""Trains the restoration network and writes models/restoration.safetensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from receiver.restoration import RESTORATION_FORMAT, RestorationNet, linear_targets, linear_windows
from shared.arrays import Int64Array, UInt8Array
from shared.codec.ladder import load_ladder
from shared.levels import RAW, SKIPPED
from shared.patches import PATCH_SIZE
from shared.weights import write_weights
from training.ladder.data import Photos, cache_folder
from training.ladder.pictures import Batch, Layered, layer_photos, make_batch, random_batch

_TYPICAL_ERROR: Final = 600.0
"""Mean squared error (0..255 scale) of skipped patches, about."""

_HELD_OUT: Final = 16
"""Photos kept back to see at which levels the linear filter helps."""

_WORTHWHILE_DB: Final = 0.2
"""Gain below which a level's linear filter is dropped: it must not hurt on other photos either."""

_LINEAR_PHOTOS: Final = 1_000
"""Photos that the linear filters are fitted to."""

_LOG_STEPS: Final = 100
_CHECKPOINT_STEPS: Final = 250


@dataclass(frozen=True)
class RestorationSettings:
    """How the network is built and trained."""

    width: int = 48
    """Channels on the cell grid."""

    blocks: int = 3
    """Residual blocks on the patch grid."""

    steps: int = 4_000
    """Gradient steps."""

    batch: int = 8
    """Crops in a step."""

    crop: int = 14
    """Side of a crop in patches."""

    rate: float = 1e-3
    """Highest learning rate."""

    photos: tuple[int, ...] = (343, 500, 200, 0)
    """Photos used of each source of `training.ladder.data.SOURCES`."""


def train_restoration(
    photos: Photos, out: Path, seed: int, log: Callable[[str], None], settings: RestorationSettings
) -> None:
    """Trains on what the ladder in `out` decodes; resumes from the last checkpoint of the same settings.

    Args:
        photos: the training photos.
        out: folder with ladder.safetensors, that restoration.safetensors goes to.
        seed: of crops, level maps and initial weights.
        log: takes a line of progress.
        settings: the network's and the training's settings.
    """
    ladder = load_ladder(out / "ladder.safetensors")
    layered = layer_photos(photos, _choose(photos, settings, seed), ladder, seed)
    log(f"{len(layered)} photos encoded and decoded")
    training, held_out = _divide(layered)
    linear = fit_linear(training, seed, log)
    checkpoint = cache_folder() / f"restoration-{ladder.weights_hash.hex()}-{seed}-{settings.steps}.pt"
    net = _Run(settings, linear, checkpoint, log, seed).train(training)
    keep_what_helps(net, held_out, log)
    notes = {"width": str(settings.width), "blocks": str(settings.blocks), "ladder": ladder.weights_hash.hex()}
    tensors = {name: tensor.half().numpy() for name, tensor in net.state_dict().items()}
    write_weights(out / "restoration.safetensors", RESTORATION_FORMAT, tensors, {**notes, "seed": str(seed)})


def _choose(photos: Photos, settings: RestorationSettings, seed: int) -> Int64Array:
    """Photos of each source, none too small for a crop; those of the paper's scale come first."""
    rng = np.random.default_rng(seed)
    large = photos.sizes.min(axis=1) >= settings.crop * PATCH_SIZE
    of_source = [np.flatnonzero((photos.sources == s) & large) for s in range(len(settings.photos))]
    return np.concatenate([rng.permutation(of)[:n] for of, n in zip(of_source, settings.photos, strict=True)])


def _divide(layered: Layered) -> tuple[Layered, Layered]:
    """All but the first photos, and the first ones (which are of the paper's scale)."""
    return _slice(layered, slice(_HELD_OUT, None)), _slice(layered, slice(_HELD_OUT))


def _slice(layered: Layered, part: slice) -> Layered:
    return Layered(layered.samples, layered.sizes[part], layered.ends[part])


def fit_linear(layered: Layered, seed: int, log: Callable[[str], None]) -> Tensor:
    """(3, 3, window, 64) least-squares weights of the linear filter, level by level, from photos at one level."""
    chosen = np.random.default_rng(seed).choice(len(layered), min(_LINEAR_PHOTOS, len(layered)), replace=False)
    weights = [_fit_linear_level(layered, chosen, level) for level in range(1, RAW)]
    log(f"linear filters of {len(weights)} levels fitted to {len(chosen)} photos")
    return torch.stack(weights)


def _fit_linear_level(layered: Layered, chosen: Int64Array, level: int) -> Tensor:
    """(3, window, 64): one least-squares problem per opponent channel, leaning a little on doing nothing."""
    gram, cross = torch.zeros(()), torch.zeros(())
    for index in chosen:
        layers = torch.from_numpy(np.ascontiguousarray(layered[index][[level - 1, RAW - 1]]))
        decoded, truth = (layers.permute(0, 3, 1, 2).float() / 255).chunk(2)
        missing = linear_targets(truth - decoded)[0].transpose(0, 1)
        windows = linear_windows(decoded)[0].transpose(0, 1)
        scale = missing.square().mean().clamp_min(1e-6)  # photos count alike, as in a mean of PSNR
        gram = gram + windows.mT @ windows / scale
        cross = cross + windows.mT @ missing / scale
    ridge = 1e-4 * gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None] * torch.eye(gram.shape[1])
    solution: Tensor = torch.linalg.solve((gram + ridge).double(), cross.double()).float()
    return solution


class _Run:
    """A training run: network, its running average, optimiser and schedule."""

    def __init__(
        self, settings: RestorationSettings, linear: Tensor, checkpoint: Path, log: Callable[[str], None], seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.settings, self.checkpoint, self.log, self.seed = settings, checkpoint, log, seed
        self.net = RestorationNet(settings.width, settings.blocks)
        self.net.linear.get_buffer("weights").copy_(linear)
        self.net = self.net.to(memory_format=torch.channels_last)
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)  # type: ignore[no-untyped-call]
        self.average = torch.optim.swa_utils.AveragedModel(self.net, multi_avg_fn=average)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=settings.rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, settings.rate, total_steps=settings.steps, pct_start=0.05
        )
        self.step = 0
        self._resume()

    def train(self, layered: Layered) -> RestorationNet:
        """Runs the remaining steps and returns the averaged network."""
        totals: list[Tensor] = []
        with click.progressbar(range(self.step, self.settings.steps), label="restoration") as bar:
            for self.step in bar:
                rng = np.random.default_rng((self.seed, self.step))  # a resumed run sees the same crops
                totals.append(self._update(random_batch(layered, self.settings.batch, self.settings.crop, rng)))
                if (self.step + 1) % _LOG_STEPS == 0:
                    gain = float(torch.stack(totals).mean())
                    self.log(f"step {self.step + 1}: skipped patches gain {gain:.3f} dB over the background")
                    totals.clear()
                if (self.step + 1) % _CHECKPOINT_STEPS == 0:
                    self._save()
        trained = self.average.module
        assert isinstance(trained, RestorationNet)
        return trained.eval()

    def _update(self, batch: Batch) -> Tensor:
        restored = self.net(batch.picture, batch.levels, batch.background)
        errors, share = _skipped_errors(restored, batch)
        loss = (share * torch.log(errors / _TYPICAL_ERROR + 0.1)).sum() / share.sum()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.net)
        with torch.no_grad():
            before, _ = _skipped_errors(batch.background, batch)
            return 10 * torch.log10((before + 0.1) / (errors + 0.1)).mean()

    def _parts(self) -> dict[str, Any]:
        return {"net": self.net, "average": self.average, "optimiser": self.optimiser, "schedule": self.schedule}

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


def _skipped_errors(restored: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(n,) mean squared error (0..255 scale) over each picture's skipped patches, and their share of the picture."""
    squared = ((restored - batch.target) * 255).square().mean(dim=1)
    by_patch = functional.avg_pool2d(squared[:, None], PATCH_SIZE)[:, 0]
    skipped = (batch.levels == SKIPPED).float()
    share = skipped.mean(dim=(1, 2))
    return (by_patch * skipped).mean(dim=(1, 2)) / share.clamp_min(1e-6), share


def keep_what_helps(net: RestorationNet, layered: Layered, log: Callable[[str], None]) -> None:
    """Drops the linear filter of every level at which the mean PSNR of the held-out photos hardly rises."""
    for level in range(1, RAW):
        gain = float(np.mean([_linear_gain(net, layered[index], level) for index in range(len(layered))]))
        log(f"level {level}: the linear filter gains {gain:.3f} dB on {len(layered)} held-out photos")
        if gain < _WORTHWHILE_DB:
            net.linear.get_buffer("weights")[level - 1] = 0


@torch.inference_mode()
def _linear_gain(net: RestorationNet, layers: UInt8Array, level: int) -> float:
    shape = (1, layers.shape[1] // PATCH_SIZE, layers.shape[2] // PATCH_SIZE)
    batch = make_batch(layers[None, :RAW], np.full(shape, level, np.int64), layers[None, RAW])
    before = (batch.picture - batch.target).square().mean()
    corrected = (net.linear(batch.picture, batch.levels) * 255).round().clamp(0, 255) / 255  # as it is shown
    after = (corrected - batch.target).square().mean()
    return float(10 * torch.log10(before / after))
