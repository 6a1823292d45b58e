"""Trains the embedded relevance extractor from the data folder to the shipped file, in one command.

`python -m training.relevance --data ../shared/data --out models/relevance.safetensors`, or for several processes
`torchrun --nproc-per-node 2 -m training.relevance ...`.

Needs the `training` extra. Each stage keeps its result in the cache folder, and an interrupted run goes on from
there; delete the folder to start anew.
"""

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import distributed
from torch.nn import functional

from training.relevance.answers import Teachers, ask
from training.relevance.caches import cache_folder, sentence_cache
from training.relevance.guesses import cross_fitted
from training.relevance.held_out import HeldOut, calibrate, held_out, report
from training.relevance.photos import Photo, captioned_photos, labelled_photos, masked_photos
from training.relevance.phrase_book import PhraseBook
from training.relevance.processes import rank
from training.relevance.samples import Pools, Sampler
from training.relevance.scenes import scene_classes
from training.relevance.start import fit_scene_classes, speak_for_classes, starting_network
from training.relevance.targets import TargetMaker
from training.relevance.teachers import BoxTeacher, SceneTeacher, VocTeacher
from training.relevance.text import train_text
from training.relevance.vision import Settings, Trainer, unchanged_tensors
from training.relevance.vocabulary import nameable, plain
from transmitter.relevance.embedded import RelevanceModel
from transmitter.relevance.network import RelevanceNetwork
from transmitter.relevance.text_tower import TextTower
from transmitter.relevance.weights import save

HELD_OUT = 40
"""Masked photos, the last ones, that set the threshold of `present` and are never trained on."""

SCENE_EVERY = 2
"""The slow scene teacher is asked about every second captioned photo."""


@dataclass(frozen=True)
class Photos:
    """What there is to learn from."""

    masked: list[Photo]
    """All objects masked; the last ones are held out."""

    captioned: list[Photo]
    """Captions, and the masks of single persons."""

    labelled: list[Photo]
    """A label for the whole photo."""

    teachers: Path
    """Folder of the teachers' files."""

    @classmethod
    def read(cls, data: Path) -> "Photos":
        """Reads the lists and draws the masks."""
        named = nameable(labelled_photos(data / "imagenet_sample"), data / "teachers")
        return cls(
            list(masked_photos(data / "coco_train_masks")),
            list(captioned_photos(data / "coco_captioned")),
            [Photo(photo.path, label=plain(photo.label)) for photo in named],
            data / "teachers",
        )

    def pools(self) -> Pools:
        """What this process trains on, and how many of each make its batch."""
        shares = ((2, 1, 1, 0), (2, 0, 1, 1))[rank() % 2] if "WORLD_SIZE" in os.environ else (4, 1, 2, 1)
        person = tuple(photo for photo in self.captioned if photo.masks)
        boxes = tuple(photo for photo in self.captioned if not photo.masks)
        return Pools((tuple(self.masked[:-HELD_OUT]), person, boxes, tuple(self.labelled)), shares)


def ask_teachers(photos: Photos, cache: Path) -> None:
    """Everything that the targets need of the teachers."""
    folder = photos.teachers
    teachers = Teachers(
        BoxTeacher(folder / "yolox_nano_coco80.onnx"),
        VocTeacher(folder / "voc21_deeplabv3_float.tflite"),
        SceneTeacher(folder / "ade20k150_deeplabv3_float.tflite"),
    )
    ask(photos.captioned, cache / "captions", teachers, scenes=False, things=True)
    ask(photos.masked, cache / "masks-scenes", teachers, scenes=True, things=False)
    ask(photos.captioned[::SCENE_EVERY], cache / "captions-scenes", teachers, scenes=True, things=False)


def trained_tower(teachers: Path, checkpoint: Path, steps: int) -> TextTower:
    """Trains the text tower, or reads it where an earlier run left it."""
    if not checkpoint.exists():
        tower = train_text(teachers, steps=steps, cache=sentence_cache(checkpoint.parent))
        torch.save((tower.words, tower.state_dict()), checkpoint)
    words, state = torch.load(checkpoint)
    tower = TextTower(words)
    tower.load_state_dict(state)
    return tower.eval().requires_grad_(requires_grad=False)


def begun_network(photos: Photos, cache: Path, tower: TextTower) -> RelevanceNetwork:
    """The network before its first step; kept in the cache, so that all processes begin with the same."""
    path = cache / "start.pt"
    network = starting_network(photos.teachers)
    if not path.exists():
        agreed = fit_scene_classes(network, photos.masked, cache / "masks-scenes")
        click.echo(f"the scene classes say what their teacher says at {agreed:.1%} of the positions")
        classes = scene_classes((photos.teachers / "ade20k150_labels.txt").read_text())
        speak_for_classes(network, tower, classes)
        torch.save(network.state_dict(), path)
    network.load_state_dict(torch.load(path))
    return network


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="About 1 GB; outside the repository.")
@click.option("--threads", default=1, show_default=True, help="Of each process.")
@click.option("--text-steps", default=2000, show_default=True)
@click.option("--steps", default=3600, show_default=True)
@click.option("--trunks-from", default=3000, show_default=True, help="Step from which the trunks learn too.")
@click.option("--prepare", is_flag=True, help="Only asks the teachers and trains the text tower.")
def main(  # noqa: PLR0917 - one argument per option of the command
    data: Path,
    out: Path,
    cache: Path | None,
    threads: int,
    text_steps: int,
    steps: int,
    trunks_from: int,
    *,
    prepare: bool,
) -> None:
    """Trains the embedded relevance extractor."""
    torch.set_num_threads(threads)
    cache = cache or cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    photos = Photos.read(data)
    if rank() == 0:
        ask_teachers(photos, cache)
        if not (cache / "guesses.pt").exists():
            torch.save(cross_fitted(photos.teachers, sentence_cache(cache)), cache / "guesses.pt")
        begun_network(photos, cache, trained_tower(photos.teachers, cache / "tower.pt", text_steps))
    if prepare:
        return
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
        distributed.barrier()
    tower = trained_tower(photos.teachers, cache / "tower.pt", text_steps)
    start = begun_network(photos, cache, tower)
    trainer = make_trainer(deepcopy(start), tower, Settings(steps, trunks_from), cache, photos)
    held = held_out(photos.masked[-HELD_OUT:])
    trainer.run(lambda now: report(now.smooth, tower, now.smooth_anything, held))
    if rank() == 0:
        ship(trainer, tower, held, start, out)


def make_trainer(
    network: RelevanceNetwork, tower: TextTower, settings: Settings, cache: Path, photos: Photos
) -> Trainer:
    """Puts the parts together."""
    maker = TargetMaker(scene_classes((photos.teachers / "ade20k150_labels.txt").read_text()))
    folders = [cache / name for name in ("captions", "captions-scenes", "masks-scenes")]
    guesses = torch.load(cache / "guesses.pt")
    book = PhraseBook(tower, [photo.label for photo in photos.labelled], guesses)
    return Trainer(network, book, Sampler(photos.pools(), maker, folders, rank()), settings, cache / "vision.pt")


def ship(trainer: Trainer, tower: TextTower, held: list[HeldOut], start: RelevanceNetwork, out: Path) -> None:
    """Writes the weights file.

    Raises:
        AssertionError: a tensor of the trunks is still the one that training began with.
    """
    network, anything = trainer.average()
    left = unchanged_tensors(network, start)
    assert not left, f"these tensors are still a teacher's: {left}"
    vector = functional.normalize(anything, dim=0)
    threshold = calibrate(network, tower, vector, held)
    save(RelevanceModel(network, tower, vector, threshold), out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, present from a peak of {threshold:.3f}")


if __name__ == "__main__":
    main()
