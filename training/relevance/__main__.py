"""Trains the embedded relevance extractor from the data folder to the shipped file, in one command.

`python -m training.relevance --data ../shared/data --out models/relevance.safetensors`

Needs the `training` extra. Each stage keeps a checkpoint in the cache folder, and an interrupted run goes on
from there; delete the folder to start anew.
"""

import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.relevance.cache import ZOOMS, fill, fill_faces, fill_scenes, plan
from training.relevance.finish import calibrate, held_out_report, ship
from training.relevance.photos import captioned_photos, labelled_photos, masked_photos
from training.relevance.teachers import BoxTeacher, SceneTeacher, VocTeacher, load_detector, load_mobile
from training.relevance.text import report, train_text
from training.relevance.vision import PhraseBook, Pools, train_all, train_decoder
from training.relevance.vocabulary import STUFF, nameable, plain
from transmitter.relevance.embedded import RelevanceModel
from transmitter.relevance.network import TEXT_CHANNELS, RelevanceNetwork
from transmitter.relevance.text_tower import TextTower

HELD_OUT = 40
"""Masked photos, the last ones, that set the threshold of `present` and are never trained on."""


def starting_network(teachers: Path) -> RelevanceNetwork:
    """A network with published trunks and a new decoder."""
    torch.manual_seed(0)
    network = RelevanceNetwork()
    load_mobile(network.mobile, teachers / "mobilenetv2_imagenet_float.npz")
    load_detector(network.detector, teachers / "yolox_nano_coco80.onnx")
    return network.eval()


def fill_cache(data: Path, crops: Path) -> None:
    """Everything that later stages read: features, masks and the teachers' answers."""
    teachers = data / "teachers"
    jobs = list(plan(list(masked_photos(data / "coco_train_masks")), "masks", ZOOMS))
    captioned = list(plan(list(captioned_photos(data / "coco_captioned")), "captions", ZOOMS[:1]))
    named = nameable(labelled_photos(data / "imagenet_sample"), teachers)
    jobs += [*captioned, *plan(named, "labels", ((0.95, 1.0),))]
    boxes = BoxTeacher(teachers / "yolox_nano_coco80.onnx")
    voc = VocTeacher(teachers / "voc21_deeplabv3_float.tflite")
    fill(jobs, crops, starting_network(teachers), boxes, voc)
    fill_faces(captioned, crops)
    scenes = SceneTeacher(teachers / "ade20k150_deeplabv3_float.tflite", teachers / "ade20k150_labels.txt", list(STUFF))
    fill_scenes(sorted(crops.glob("masks-*-0.npz")), scenes)


def split_pools(crops: Path, labelled: tuple[Path, ...]) -> tuple[Pools, list[Path]]:
    """The training crops by what is known of them, and the held-out ones."""
    masked = sorted(crops.glob("masks-*.npz"))
    first_held = max(_photo(path) for path in masked) + 1 - HELD_OUT
    held = [path for path in masked if _photo(path) >= first_held and path.stem.endswith("-0")]
    person: list[Path] = []
    boxes: list[Path] = []
    for path in sorted(crops.glob("captions-*.npz")):
        with np.load(path) as entry:
            (person if len(entry["kinds"]) else boxes).append(path)
    trained = tuple(path for path in masked if _photo(path) < first_held)
    return Pools((trained, tuple(person), tuple(boxes), labelled), (5, 2, 1, 2 if labelled else 0)), held


def read_labels(crops: Path) -> dict[Path, str]:
    """What the labelled crops show."""
    labels = {}
    for path in sorted(crops.glob("labels-*.npz")):
        with np.load(path) as entry:
            labels[path] = plain(str(entry["label"]))
    return labels


def _photo(path: Path) -> int:
    return int(path.name.split("-")[1])


def trained_tower(teachers: Path, checkpoint: Path, steps: int) -> TextTower:
    """Trains the text tower, or reads it where an earlier run left it."""
    if not checkpoint.exists():
        tower = train_text(teachers, steps=steps)
        click.echo(report(tower, teachers))
        torch.save((tower.words, tower.state_dict()), checkpoint)
    words, state = torch.load(checkpoint)
    tower = TextTower(words)
    tower.load_state_dict(state)
    return tower.eval().requires_grad_(requires_grad=False)


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="About 7 GB; outside the repository.")
@click.option("--threads", default=1, show_default=True)
@click.option("--text-steps", default=1500, show_default=True)
@click.option("--decoder-steps", default=900, show_default=True)
@click.option("--all-steps", default=16, show_default=True)
@click.option("--labels/--no-labels", default=False, show_default=True, help="Learn from whole-photo labels too.")
def main(  # noqa: PLR0917 - one argument per option of the command
    data: Path,
    out: Path,
    cache: Path | None,
    threads: int,
    text_steps: int,
    decoder_steps: int,
    all_steps: int,
    labels: bool,
) -> None:
    """Trains the embedded relevance extractor."""
    torch.set_num_threads(threads)
    cache = cache or Path(tempfile.gettempdir()) / "mmsc-relevance"
    teachers = data / "teachers"
    fill_cache(data, cache / "crops")
    found = read_labels(cache / "crops") if labels else {}
    pools, held = split_pools(cache / "crops", tuple(found))
    tower = trained_tower(teachers, cache / "tower.pt", text_steps)
    start = starting_network(teachers)
    network = starting_network(teachers)
    anything = nn.Parameter(functional.normalize(torch.randn(TEXT_CHANNELS), dim=0))
    book = PhraseBook(tower, anything, found)
    check = partial(held_out_report, network, tower, anything, held)
    train_decoder(
        network, book, anything, pools, steps=decoder_steps, rate=2e-3, checkpoint=cache / "decoder.pt", check=check
    )
    train_all(network, book, anything, pools, steps=all_steps, rate=1e-4, checkpoint=cache / "all.pt", check=check)
    threshold = calibrate(network, tower, anything, held)
    vector = functional.normalize(anything.detach(), dim=0)
    ship(RelevanceModel(network.eval(), tower, vector, threshold), start, out)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, present from a peak of {threshold:.3f}")


if __name__ == "__main__":
    main()
