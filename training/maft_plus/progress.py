"""What a training says while it runs: a progress bar, and curves for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.maft_plus.processes import Processes

FOLDER = "log"
"""Of TensorBoard's files, in the training's folder."""


class Progress:
    """Says nothing in all processes but the first.

    Args:
        out: the training's folder.
        processes: where this process stands.
        start: the first iteration; curves of an earlier run from there on are dropped.
        iterations: of the whole training.
    """

    def __init__(self, out: Path, processes: Processes, start: int, iterations: int) -> None:
        self._bar = tqdm(total=iterations, initial=start, disable=not processes.first, unit="it", mininterval=2)
        self._writer = SummaryWriter(str(out / FOLDER), purge_step=start) if processes.first else None
        self._device, self._since, self._seen = processes.device, time.monotonic(), start

    def step(self) -> None:
        """One iteration is done."""
        self._bar.update()

    def curves(self, iteration: int, losses: Mapping[str, float], *, rate: float, norm: float) -> None:
        """Writes the figures of an iteration.

        Args:
            iteration: that is done.
            losses: the weighted terms, by name.
            rate: learning rate of the head.
            norm: of the gradient, before it was shortened.
        """
        total = sum(losses.values())
        self._bar.set_postfix(loss=f"{total:.3f}", refresh=False)
        if self._writer is None:
            return
        figures = {f"loss/{name}": value for name, value in losses.items()} | {"loss/total": total}
        self._write(iteration, figures | {"rate": rate, "gradient_norm": norm, **self._costs(iteration)})

    def scores(self, iteration: int, scores: Mapping[str, float]) -> None:
        """Writes and shows what a check found."""
        self._write(iteration, {f"check/{name}": value for name, value in scores.items()})
        told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        if self._writer is not None:
            self._bar.write(f"iteration {iteration}: {told}")

    def close(self) -> None:
        """Writes out what is left."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _costs(self, iteration: int) -> dict[str, float]:
        now = time.monotonic()
        costs = {"seconds_per_iteration": (now - self._since) / max(1, iteration - self._seen)}
        self._since, self._seen = now, iteration
        if self._device.type == "cuda":
            costs["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
        return costs

    def _write(self, iteration: int, figures: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, iteration)
