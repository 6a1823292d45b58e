"""Trains the restoration network and writes models/restoration.safetensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor

from receiver.restoration import RESTORATION_FORMAT, RestorationNet
from shared.arrays import Int64Array
from shared.codec.ladder import load_ladder
from shared.codec.weights import write_weights
from shared.levels import LEVEL_BYTES, RAW, SKIPPED
from shared.patches import PATCH_SIZE
from training.ladder.data import Photos, cache_folder
from training.ladder.pictures import Batch, Layered, layer_photos, make_batch, random_batch

_TYPICAL_ERROR: Final = (600.0, 40.0, 14.0, 3.0)
"""Mean squared error (0..255 scale) that each level starts from, about; it puts the levels on one scale."""

_HELD_OUT: Final = 16
"""Photos kept back to measure how much of the network's residual each level should get."""

_LOG_STEPS: Final = 100
_CHECKPOINT_STEPS: Final = 250


@dataclass(frozen=True)
class RestorationSettings:
    """How the network is built and trained."""

    width: int = 48
    """Channels on the cell grid."""

    blocks: int = 3
    """Residual blocks on the patch grid."""

    steps: int = 8_000
    """Gradient steps."""

    batch: int = 8
    """Crops in a step."""

    crop: int = 14
    """Side of a crop in patches."""

    rate: float = 2e-3
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
    checkpoint = cache_folder() / f"restoration-{ladder.weights_hash.hex()}-{seed}-{settings.steps}.pt"
    net = _Run(settings, checkpoint, log, seed).train(training)
    calibrate(net, held_out, log)
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


class _Run:
    """A training run: network, its running average, optimiser and schedule."""

    def __init__(self, settings: RestorationSettings, checkpoint: Path, log: Callable[[str], None], seed: int) -> None:
        torch.manual_seed(seed)
        self.settings, self.checkpoint, self.log, self.seed = settings, checkpoint, log, seed
        self.net = RestorationNet(settings.width, settings.blocks)
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
                    gains = torch.stack(totals).nanmean(dim=0).tolist()
                    self.log(f"step {self.step + 1}: gain in dB by level {[round(gain, 3) for gain in gains]}")
                    totals.clear()
                if (self.step + 1) % _CHECKPOINT_STEPS == 0:
                    self._save()
        trained = self.average.module
        assert isinstance(trained, RestorationNet)
        return trained.eval()

    def _update(self, batch: Batch) -> Tensor:
        restored = self.net(batch.picture, batch.levels, batch.background)
        errors, present = _level_errors(restored, batch)
        loss = (present * torch.log(errors / torch.tensor(_TYPICAL_ERROR) + 0.1)).sum() / present.sum()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.net)
        with torch.no_grad():
            before, _ = _level_errors(_unrestored(batch), batch)
            gain = 10 * torch.log10(before / errors.clamp_min(1e-3))
            return torch.where(present > 0, gain, torch.nan).nanmean(dim=0)

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


def _unrestored(batch: Batch) -> Tensor:
    """The received picture with the background where nothing arrived."""
    known = (batch.levels != SKIPPED).repeat_interleave(PATCH_SIZE, 1).repeat_interleave(PATCH_SIZE, 2)[:, None]
    return torch.where(known, batch.picture, batch.background)


def _level_errors(restored: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(n, 4) mean squared error (0..255 scale) at levels 0 to 3 of each picture, and its share of patches."""
    squared = ((restored - batch.target) * 255).square().mean(dim=1)
    by_patch = torch.nn.functional.avg_pool2d(squared[:, None], PATCH_SIZE)[:, 0]
    member = torch.nn.functional.one_hot(batch.levels, len(LEVEL_BYTES))[..., :RAW].float()
    count = member.sum(dim=(1, 2))
    errors = (by_patch[..., None] * member).sum(dim=(1, 2)) / count.clamp_min(1)
    return errors, count / member[0, ..., 0].numel()


def calibrate(net: RestorationNet, layered: Layered, log: Callable[[str], None]) -> None:
    """Sets the gate of every level to the share of the residual that lowers the error most on held-out photos.

    A level at which the network does not help gets none of it: restoration must never hurt.
    """
    gates = torch.ones(len(LEVEL_BYTES))
    for level in range(1, RAW):
        gates[level] = _best_share(net, layered, level)
    gates[RAW] = 0.0
    net.get_buffer("gates").copy_(gates)
    log(f"gates by level {[round(gate, 3) for gate in gates.tolist()]}")


@torch.inference_mode()
def _best_share(net: RestorationNet, layered: Layered, level: int) -> float:
    agreement, power = 0.0, 0.0
    for index in range(len(layered)):
        layers = layered[index][None]
        shape = (1, layers.shape[2] // PATCH_SIZE, layers.shape[3] // PATCH_SIZE)
        batch = make_batch(layers[:, :RAW], np.full(shape, level, np.int64), layers[:, RAW])
        residual = net(batch.picture, batch.levels, batch.background) - batch.picture
        missing = batch.target - batch.picture
        scale = missing.square().mean()  # photos count alike, as in a mean of PSNR
        agreement += float((residual * missing).mean() / scale)
        power += float(residual.square().mean() / scale)
    return float(np.clip(agreement / max(power, 1e-9), 0.0, 1.0))
