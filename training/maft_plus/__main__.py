"""Trains MAFT+ as the paper did: `python -m training.maft_plus --data FOLDER --out FOLDER`.

On several GPUs `torchrun --nproc-per-node 8 -m training.maft_plus ...`. The same command goes on where an earlier run
in the same folder stopped. Needs the `maft-training` extra; docs/maft_training.md says more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import torch

from shared.errors import InvalidInputError, MmscError, WeightsError
from training.maft_plus.classes import ClassText, class_text
from training.maft_plus.optimiser import RATE
from training.maft_plus.photos import PhotoSet, open_photos
from training.maft_plus.processes import Processes, summed, together
from training.maft_plus.proposal_loss import POINTS
from training.maft_plus.samples import LONGEST, SHORTEST, Sizes
from training.maft_plus.scoring import mean_iou, overlaps
from training.maft_plus.start import Variant, start_model, text_encoder
from training.maft_plus.step import TrainingStep
from training.maft_plus.trainer import Amp, Pace, Settings, Trainer
from transmitter.relevance.maft_plus.checkpoint import write
from transmitter.relevance.maft_plus.config import BASE, LARGE, SIZE_STEP, MaftConfig
from transmitter.relevance.maft_plus.model import MaftPlus

WEIGHTS: Final = "maft_plus.safetensors"
"""What a finished training leaves in its folder: the model without its teacher, under the official names."""

_ITERATIONS: Final = {LARGE: 55_000, BASE: 60_000}
_POSITIVE: Final = click.IntRange(min=1)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True)
class Job:
    """Everything that the command line says."""

    data: Path
    labels: Path | None
    names: Path | None
    val: Path | None
    out: Path
    init: str | None
    variant: Variant | None
    device: str
    settings: Callable[[MaftConfig], Settings]
    pace: Pace


class _BadInputError(click.ClickException):
    """One line, as the `mmsc` command says it."""

    exit_code = 2


@click.command()
@click.option("--data", type=_FOLDER, required=True, help="images/, labels/ and names.txt, or COCO's instances.json.")
@click.option("--out", type=_FOLDER, required=True, help="The training's folder; a run that it holds goes on.")
@click.option("--labels", type=_FOLDER, help="Folder of the label maps.  [default: DATA/labels]")
@click.option("--names", type=click.Path(dir_okay=False, path_type=Path), help="[default: DATA/names.txt]")
@click.option("--val", type=_FOLDER, help="Photos of the same classes, in the same form, to measure mean IoU on.")
@click.option("--init", help="A tag of open_clip, the file of a CLIP or a MAFT+, or `random`.  [default: the paper's]")
@click.option("--variant", type=click.Choice(["large", "base"]), help="[default: what --init holds, or large]")
@click.option("--iterations", type=_POSITIVE, help="[default: 60,000 for Base, 55,000 for others]")
@click.option("--batch", type=_POSITIVE, default=8, show_default=True, help="Photos, of all processes together.")
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True), default=RATE, show_default=True)
@click.option("--shortest", type=click.IntRange(min=SIZE_STEP), default=SHORTEST, show_default=True)
@click.option("--longest", type=click.IntRange(min=SIZE_STEP), default=LONGEST, show_default=True)
@click.option("--points", type=click.IntRange(min=4), default=POINTS, show_default=True, help="Per mask.")
@click.option("--seed", type=click.IntRange(min=0), default=123, show_default=True)
@click.option("--amp", type=click.Choice(["off", "bf16", "fp16"]), help="[default: fp16 on a GPU, else off]")
@click.option("--stochastic-depth/--no-stochastic-depth", default=True, show_default=True, help="As the original.")
@click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="That read photos ahead.")
@click.option("--log-every", type=_POSITIVE, default=20, show_default=True, help="Iterations.")
@click.option("--save-every", type=_POSITIVE, default=1_000, show_default=True, help="Iterations.")
@click.option("--val-every", type=_POSITIVE, default=5_000, show_default=True, help="Iterations.")
def main(  # noqa: PLR0917 - one argument per option of the command
    data: Path,
    out: Path,
    labels: Path | None,
    names: Path | None,
    val: Path | None,
    init: str | None,
    variant: Variant | None,
    iterations: int | None,
    batch: int,
    rate: float,
    shortest: int,
    longest: int,
    points: int,
    seed: int,
    amp: Amp | None,
    device: str | None,
    workers: int,
    log_every: int,
    save_every: int,
    val_every: int,
    *,
    stochastic_depth: bool,
) -> None:
    """Trains MAFT+, from CLIP or from an earlier MAFT+."""
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def settings(config: MaftConfig) -> Settings:
        count = iterations or _ITERATIONS.get(config, _ITERATIONS[LARGE])
        kind: Amp = amp or ("fp16" if place.startswith("cuda") else "off")
        sizes = Sizes(shortest, longest)
        return Settings(count, batch, seed, rate, points, sizes, kind, stochastic_depth)

    pace = Pace(workers, log_every, save_every, val_every)
    job = Job(data, labels, names, val, out, init, variant, place, settings, pace)
    try:
        if amp == "fp16" and not place.startswith("cuda"):
            raise InvalidInputError("amp", "fp16 needs a GPU; bf16 works everywhere")
        if longest < shortest:
            raise InvalidInputError("longest", f"{longest} is less than --shortest, {shortest}")
        with together(place) as processes:
            train(job, processes)
    except (InvalidInputError, WeightsError) as error:
        raise _BadInputError(" ".join(str(error).split())) from error
    except MmscError as error:
        raise click.ClickException(str(error)) from error


def train(job: Job, processes: Processes) -> None:
    """Does what the command says.

    Raises:
        InvalidInputError: the data, or the options, cannot be used.
        WeightsError: the initial weights, or the checkpoint, cannot.
        MmscError: the training diverged.
    """
    photos = open_photos(job.data, labels=job.labels, names=job.names)
    names = job.names or job.data / "names.txt"
    checked = open_photos(job.val, names=names) if job.val else None
    if checked is not None and checked.classes != photos.classes:
        raise InvalidInputError("val", f"{job.val} has other classes than {job.data}")
    model = _begun(job).to(processes.device)
    settings = job.settings(model.config)
    text = class_text(photos.classes, text_encoder(model))
    step = TrainingStep(model, text, points=settings.points, autocast=settings.autocast)
    step.to(processes.device)
    photos_told = f"{len(photos)} photos, {len(photos.classes)} classes"
    trainer = Trainer(step, photos, settings, pace=job.pace, out=job.out, processes=processes)
    if processes.first:
        click.echo(f"{photos_told}; from iteration {trainer.iteration}", err=True)
    trainer.run(_check(model, text, checked, settings.sizes, processes) if checked else None)
    if processes.first:
        notes = {"trained_on": photos_told, "iterations": str(settings.iterations)}
        write(job.out / WEIGHTS, model.state_dict(), model.config, notes)
        click.echo(f"{job.out / WEIGHTS}: {(job.out / WEIGHTS).stat().st_size / 1e6:.1f} MB")


def _begun(job: Job) -> MaftPlus:
    # What no file gives is drawn: the same in every process, and in a run that goes on.
    torch.manual_seed(0)
    return start_model(job.init, job.variant)


def _check(
    model: MaftPlus, text: ClassText, photos: PhotoSet, sizes: Sizes, processes: Processes
) -> Callable[[], dict[str, float]]:
    """Mean IoU on photos; each process looks at its share of them."""

    def check() -> dict[str, float]:
        own = (photos.read(number) for number in range(processes.rank, len(photos), processes.count))
        return {"mean_iou": mean_iou(summed(overlaps(model, text, own, sizes)))}

    return check


if __name__ == "__main__":
    main()
