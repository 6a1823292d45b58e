"""Trains MAFT+ from the first iteration, or from where an earlier run stopped, to the last."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from shared.errors import InvalidInputError, MmscError
from training.maft_plus.checkpoint import Checkpoint, read_checkpoint_of, write_checkpoint
from training.maft_plus.optimiser import RATE, clip_gradients, freeze, make_optimiser, set_rates
from training.maft_plus.photos import PhotoSet
from training.maft_plus.points import PictureDraws
from training.maft_plus.processes import Processes
from training.maft_plus.progress import Progress
from training.maft_plus.proposal_loss import POINTS
from training.maft_plus.samples import Sample, Samples, Share, Sizes, Stream, batches
from training.maft_plus.step import Outcome, TrainingStep, mask_count

CHECKPOINT: Final = "last.pt"
"""In the training's folder."""

STUDENT_DEPTH_FROM: Final = 5_000
"""Iteration from which the student's trunk drops blocks; the teacher's always does (FACTS section 8, quirks)."""

Amp = Literal["off", "bf16", "fp16"]
_TYPES: Final[Mapping[str, torch.dtype | None]] = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a training."""

    iterations: int
    """Of the whole training; 55,000 made the paper's Large, 60,000 its Base."""

    batch: int = 8
    """Photos per iteration, of all processes together."""

    seed: int = 123
    rate: float = RATE
    """Learning rate of the head at the start."""

    points: int = POINTS
    sizes: Sizes = field(default_factory=Sizes)
    amp: Amp = "off"
    """What to compute in where that is safe."""

    stochastic_depth: bool = True
    """Whether blocks are dropped as the original does it."""

    @property
    def autocast(self) -> torch.dtype | None:
        """The type of `amp`; None is float32."""
        return _TYPES[self.amp]


@dataclass(frozen=True)
class Pace:
    """What decides how a training runs, but none of its numbers."""

    workers: int = 2
    """Processes per process that read photos ahead."""

    log_every: int = 20
    save_every: int = 1_000
    check_every: int = 5_000


class Trainer:
    """A training in its folder; goes on from the checkpoint that it finds there.

    Args:
        step: the model with its loss, on the processes' device.
        photos: what to learn from.
        settings: what decides the numbers.
        pace: what does not.
        out: the training's folder; made if need be.
        processes: where this process stands.

    Raises:
        InvalidInputError: the folder holds a run with other settings, classes or photos, or cannot be written; or
            the batch cannot be shared among the processes.
        WeightsError: the checkpoint is damaged.
    """

    def __init__(
        self,
        step: TrainingStep,
        photos: PhotoSet,
        settings: Settings,
        *,
        pace: Pace,
        out: Path,
        processes: Processes,
    ) -> None:
        self._settings, self._pace, self._out, self._processes = settings, pace, out, processes
        self._share = Share(settings.batch, processes.rank, processes.count)
        self._samples = Samples(photos, Stream(len(photos), settings.seed), settings.sizes)
        self._facts = facts(settings, photos)
        self.step = step
        freeze(step.model)
        self._optimiser = make_optimiser(step.model, settings.rate)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.autocast is torch.float16)
        self.iteration = 0
        self._make_folder()
        self._resume()
        self._parallel = _parallel(step)

    def run(self, check: Callable[[], Mapping[str, float]] | None = None, *, until: int | None = None) -> None:
        """Trains.

        Args:
            check: measures the model; all processes call it together, every `check_every` iterations and at the end.
            until: stop before this iteration, as an interruption would, but with a checkpoint.

        Raises:
            InvalidInputError: a file of the photos is damaged.
            MmscError: the loss is not finite.
        """
        last = min(self._settings.iterations, until or self._settings.iterations)
        progress = Progress(self._out, self._processes, self.iteration, self._settings.iterations)
        try:
            left = range(self.iteration, last)
            for batch in batches(self._samples, self._share, left, self._pace.workers):
                self._iterate(batch, progress)
                self._keep_up(progress, last, check)
        finally:
            progress.close()

    def _iterate(self, batch: list[Sample], progress: Progress) -> None:
        terms, norm = self.learn(batch)
        self.iteration += 1
        progress.step()
        if self.iteration % self._pace.log_every == 0 or self.iteration == self._settings.iterations:
            losses = {name: float(value) for name, value in terms.items()}
            rate = max(group["lr"] for group in self._optimiser.param_groups)
            progress.curves(self.iteration, losses, rate=rate, norm=norm)

    def learn(self, batch: list[Sample]) -> tuple[dict[str, Tensor], float]:
        """One update of the weights.

        Args:
            batch: of this process.

        Returns:
            The weighted terms of the loss, and the norm of the gradient before it was shortened.

        Raises:
            MmscError: the loss is not finite.
        """
        set_rates(self._optimiser, self.iteration, self._settings.iterations)
        terms = self._losses(batch).terms
        total = torch.stack(list(terms.values())).sum()
        if not bool(total.isfinite()):
            raise MmscError(f"iteration {self.iteration}: the loss is not finite ({_told(terms)})")
        self._optimiser.zero_grad()
        torch.autograd.backward(self._scaler.scale(total))
        self._scaler.unscale_(self._optimiser)
        norm = clip_gradients(self.step.model)
        # The scaler passes over gradients that are not finite; without it, that is done here.
        if self._scaler.is_enabled() or bool(norm.isfinite()):
            self._scaler.step(self._optimiser)
        self._scaler.update()
        return {name: value.detach() for name, value in terms.items()}, float(norm)

    def _losses(self, batch: list[Sample]) -> Outcome:
        device, settings = self._processes.device, self._settings
        # What blocks are dropped follows from the iteration, too.
        numbers = np.random.SeedSequence((settings.seed, self.iteration, self._processes.rank))
        torch.manual_seed(int(numbers.generate_state(1)[0]))
        depth = settings.stochastic_depth
        student_depth = depth and self.iteration >= STUDENT_DEPTH_FROM
        self.step.set_mode(student_depth=student_depth, teacher_depth=depth)
        targets = [sample.target.to(device) for sample in batch]
        pictures = [sample.image.to(device) for sample in batch]
        draws = PictureDraws([sample.seed for sample in batch], device)
        made: Outcome = self._parallel(pictures, targets, mask_count(targets), draws)
        return made

    def _keep_up(self, progress: Progress, last: int, check: Callable[[], Mapping[str, float]] | None) -> None:
        ends = self.iteration == last
        if self._processes.first and (ends or self.iteration % self._pace.save_every == 0):
            self._save()
        due = self.iteration == self._settings.iterations or self.iteration % self._pace.check_every == 0
        if check is not None and due:
            progress.scores(self.iteration, check())

    def _save(self) -> None:
        state = Checkpoint(
            self.iteration,
            self._facts,
            self.step.model.state_dict(),
            self._optimiser.state_dict(),
            self._scaler.state_dict(),
        )
        write_checkpoint(self._out / CHECKPOINT, state)

    def _resume(self) -> None:
        path = self._out / CHECKPOINT
        if not path.exists():
            return
        state = read_checkpoint_of(path, self._facts)
        try:
            self.step.model.load_state_dict(state.model)
            self._optimiser.load_state_dict(state.optimiser)
            self._scaler.load_state_dict(state.scaler)
        except (RuntimeError, ValueError, KeyError) as error:
            told = " ".join(str(error).split())[:200]
            raise InvalidInputError("init", f"the run in {self._out} is of another model ({told})") from error
        self.iteration = state.iteration

    def _make_folder(self) -> None:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInputError("out", f"{self._out} cannot be made ({error.strerror})") from error


def facts(settings: Settings, photos: PhotoSet) -> dict[str, str]:
    """What must be the same for a run to go on, by names that a person knows."""
    listed = "\n".join(path.name for path in photos.pictures)
    return {
        **{name: str(value) for name, value in asdict(settings).items()},
        "classes": repr(photos.classes),
        "photos": f"{len(photos)} photos, {hashlib.sha256(listed.encode()).hexdigest()[:12]}",
    }


def _parallel(step: TrainingStep) -> nn.Module:
    if not distributed.is_initialized():
        return step
    return nn.parallel.DistributedDataParallel(step, forward_sync_buffers=False)


def _told(terms: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {value.item():.3g}" for name, value in terms.items() if not bool(value.isfinite()))
