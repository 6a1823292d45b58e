"""Tiny datasets in both formats, and an extractor whose answers are known."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from evaluation.datasets import open_dataset
from evaluation.relevance.photo import score_photo, wrong_entry
from transmitter.relevance import Relevance

HEIGHT, WIDTH = 80, 120
"""Of the photos: 10 x 15 patches in three upright stripes of 50."""


def floats(*values):
    return np.array(values, np.float32)


def flags(*values):
    return np.array(values, bool)


def stripe(number, height=HEIGHT, width=WIDTH):
    """(height, width) mask of one third of the width."""
    mask = np.zeros((height, width), bool)
    mask[:, number * width // 3 : (number + 1) * width // 3] = True
    return mask


def corner(side):
    """(HEIGHT, WIDTH) mask of a square at the top right."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:side, WIDTH - side :] = True
    return mask


def write_folder(folder, photos):
    """Writes `queries.json` and its files.

    Args:
        folder: where to.
        photos: masks by name, by stem; the query is for the first two.
    """
    (folder / "masks").mkdir(parents=True)
    (folder / "images").mkdir()
    rows = []
    for number, (stem, masks) in enumerate(photos.items()):
        shade = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(shade).save(folder / "images" / f"{stem}.png")
        for name, mask in masks.items():
            Image.fromarray(mask).save(folder / "masks" / f"{stem}.{name.replace(' ', '_')}.png")
        asked = list(masks)[:2]
        rows.append(
            {
                "image": f"images/{stem}.png",
                "query": " and ".join(asked),
                "objects_in_query": asked,
                "objects": [{"name": name, "area_fraction": float(mask.mean())} for name, mask in masks.items()],
                "captions": [f"a photo called {stem}"],
            }
        )
    (folder / "queries.json").write_text(json.dumps(rows))
    return folder


def standard_folder(folder):
    """Two photos; the first also has an object on one patch (under 1 %) and one on no patch at all."""
    first = {"cat": stripe(0), "tv set": stripe(1), "mouse": corner(8), "crumb": corner(3)}
    return write_folder(folder, {"one": first, "two": {"dog": stripe(0), "cup": stripe(1)}})


def write_coco(folder, photos=5):
    """A COCO folder of 60x40 photos: a table on the left two thirds, a cup in the middle, a spoon as a crowd.

    Returns:
        The annotation file.
    """
    folder.mkdir()
    middle, right = stripe(1, 40, 60), stripe(2, 40, 60)
    compressed = coco_mask.encode(np.asfortranarray(middle))
    runs = [int(np.flatnonzero(right.ravel("F"))[0]), int(right.sum())]
    outlines = [
        (1, [[0, 0, 40, 0, 40, 40, 0, 40]], 0),
        (2, {"size": [40, 60], "counts": compressed["counts"].decode()}, 0),
        (3, {"size": [40, 60], "counts": runs}, 1),
    ]
    images, annotations = [], []
    for number in range(1, photos + 1):
        Image.new("RGB", (60, 40), (number, 0, 0)).save(folder / f"{number:03}.png")
        images.append({"id": number, "file_name": f"{number:03}.png", "width": 60, "height": 40})
        for category, segmentation, crowd in outlines[: 2 if number > 1 else 1]:
            annotations.append(_annotation(number, category, segmentation, crowd))
    annotations.append(_annotation(photos, *outlines[2]))
    names = {1: "dining table", 2: "cup", 3: "spoon"}
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(content))
    return path


def _annotation(image, category, segmentation, crowd):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


ANSWERS = {
    "cat and tv set": ((1, 0.5, 0.5), True),
    "dog and cup": ((0.1, 0, 0.9), True),
    "": ((0.2, 0.2, 0.2), True),
    "cat": ((0.9, 0.1, 0), True),
    "tv set": ((0.8, 0.8, 0), True),
    "mouse": ((0.3, 0.3, 0.3), False),
    "crumb": ((0.6, 0, 0), True),
    "dog": ((0.25, 0.25, 0.25), False),
    "cup": ((0, 0.7, 0), True),
    "house cat": ((0.5, 0.5, 0), True),
    "puss": ((0.7, 0, 0), True),
}
"""Values of the three stripes, and whether it is present, by query."""

SYNONYMS = {"cat": ("house cat", "puss"), "crumb": ("never asked",)}
"""Other names; those of the crumb, which is on no patch, are never asked for."""


class Scripted:
    """Answers by query alone."""

    name = "scripted"

    def __init__(self):
        self.asked = []

    def __call__(self, image, query):
        self.asked.append(query)
        values, present = ANSWERS[query]
        plane = np.zeros(image.shape[:2], np.float32)
        for number, value in enumerate(values):
            plane[stripe(number, *image.shape[:2])] = value
        return Relevance(plane, present=present)


class ScriptedMany(Scripted):
    """The same, all questions in one go."""

    calls = 0

    def many(self, image, queries):
        self.calls += 1
        return [Scripted.__call__(self, image, query) for query in queries]

    def __call__(self, image, query):
        raise AssertionError("asked one by one")


def load_scripted():
    """As a process of its own would."""
    return Scripted()


class Grey:
    """Finds everything everywhere, by half."""

    name = "grey"

    def __call__(self, image, query):
        return Relevance(np.full(image.shape[:2], 0.5, np.float32), present=True)


def scored(folder):
    """What `Scripted` scores on every photo of the folder."""
    dataset = open_dataset(folder)
    numbers = range(len(dataset))
    return [score_photo(Scripted(), dataset[number], wrong_entry(dataset, number), SYNONYMS) for number in numbers]


@pytest.fixture(name="folder")
def folder_fixture(tmp_path):
    return standard_folder(tmp_path / "set")


@pytest.fixture(name="rows")
def rows_fixture(folder):
    return scored(folder)
