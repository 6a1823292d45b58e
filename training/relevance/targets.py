"""Turns masks, boxes and teachers' answers into what the network should say, and where that is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from shared.arrays import Float32Array
from training.relevance.cache import face_path, scene_path
from training.relevance.photos import CATEGORIES, COLUMNS, ROWS
from training.relevance.vocabulary import GROUPS, PARTS, STUFF

_VOC: Final = (
    "airplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,dining table,dog,horse,motorcycle,person,"
    "potted plant,sheep,couch,train,tv"
)

VOC_CATEGORIES: Final = tuple(_VOC.split(","))
"""COCO's names of PASCAL VOC's classes 1 to 20."""

ANYTHING: Final = "anything"
"""The pseudo-category of the empty query: the union of all objects."""

COLUMN_NAMES: Final = (*CATEGORIES, *GROUPS, *STUFF, *PARTS, ANYTHING)
"""What each plane of a target stands for."""

SURE: Final = 0.4
"""Confidence from which a detected box counts as an object."""


@dataclass
class Target:
    """What is known of one crop; planes in the order of `COLUMN_NAMES`."""

    wanted: Float32Array
    """(planes, 40, 60), share of the patch that is object, 0 to 1."""

    known: Float32Array
    """(planes, 40, 60), weight of the patch in the loss, 0 (unknown) to 1."""

    boxed: Float32Array
    """(planes, 40, 60), 1 inside sure boxes whose pixels no one has labelled."""


def load_maps(path: Path) -> list[Float32Array]:
    """The trunks' maps of a cached crop at strides 8, 16 and 32."""
    with np.load(path) as entry:
        return [entry[f"map{level}"].astype(np.float32) for level in range(3)]


def load_target(path: Path) -> Target:
    """Reads what a cached crop says of its objects."""
    with np.load(path) as entry:
        shape = (len(CATEGORIES), ROWS, COLUMNS)
        target = Target(np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, np.float32))
        if "label" in entry and str(entry["label"]):
            target.known[:] = 0
        elif not entry["complete"]:
            _from_boxes(target, entry["boxes"])
            _from_voc(target, entry["voc"].astype(np.float32) / 255, entry["boxes"])
        for kind, mask in zip(entry["kinds"], entry["masks"], strict=True):
            target.wanted[kind], target.known[kind], target.boxed[kind] = mask / 255.0, 1, 0
        return _with_unions(target, _scene(path), _face(path, target), complete=bool(entry["complete"]))


def _from_boxes(target: Target, boxes: Float32Array) -> None:
    """Unknown inside every box; outside of all boxes nothing is there, with less than full certainty."""
    target.known *= 0.5
    for kind, score, left, top, right, bottom in boxes:
        rows = slice(int(top * ROWS), int(np.ceil(bottom * ROWS)))
        columns = slice(int(left * COLUMNS), int(np.ceil(right * COLUMNS)))
        target.known[int(kind), rows, columns] = 0
        if score > SURE:
            target.boxed[int(kind), rows, columns] = 1


def _from_voc(target: Target, voc: Float32Array, boxes: Float32Array) -> None:
    """Takes the segmentation of a class over where a box of that class confirms it."""
    for place, name in enumerate(VOC_CATEGORIES, start=1):
        kind = CATEGORIES.index(name)
        confirmed = any(box[0] == kind and box[1] > 0.25 for box in boxes)
        if confirmed and voc[place].max() > 0.7:
            sure = (voc[place] > 0.75) | (voc[place] < 0.15)
            inside = target.known[kind] == 0
            target.wanted[kind] = np.where(inside, voc[place], 0)
            target.known[kind] = np.where(inside, 0.8 * sure, target.known[kind])
            target.boxed[kind] *= ~sure


def _scene(path: Path) -> tuple[Float32Array, Float32Array]:
    """Targets and weights of the planes of `STUFF`; weightless where the scene teacher was not asked."""
    shape = (len(STUFF), ROWS, COLUMNS)
    if not scene_path(path).exists():
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    shares = np.load(scene_path(path)).astype(np.float32) / 255
    return shares, 0.6 * ((shares > 0.7) | (shares < 0.15)).astype(np.float32)


def _face(path: Path, target: Target) -> tuple[Float32Array, Float32Array]:
    """Target and weight of the plane of the face; outside of any person there is none."""
    if face_path(path).exists():
        return np.load(face_path(path))[None], np.ones((1, ROWS, COLUMNS), np.float32)
    person = CATEGORIES.index("person")
    outside = target.known[person] * (target.wanted[person] < 0.1) * (target.boxed[person] == 0)
    return np.zeros((1, ROWS, COLUMNS), np.float32), outside[None].astype(np.float32)


def _with_unions(
    target: Target,
    scene: tuple[Float32Array, Float32Array],
    face: tuple[Float32Array, Float32Array],
    *,
    complete: bool,
) -> Target:
    """Adds the planes of the groups, of the scene, of the face and of `ANYTHING`."""
    groups = [[CATEGORIES.index(name) for name in members.split(",")] for members in GROUPS.values()]
    unions = np.array([target.wanted[group].max(0) for group in groups])
    known = np.where(unions > 0.5, 1, np.array([target.known[group].min(0) for group in groups]))
    anything = target.wanted.max(0, keepdims=True)
    sure = np.full_like(anything, float(complete))
    wanted = np.concatenate([target.wanted, unions, scene[0], face[0], anything]).astype(np.float32)
    boxed = np.zeros_like(wanted)
    boxed[: len(target.boxed)] = target.boxed
    return Target(wanted, np.concatenate([target.known, known, scene[1], face[1], sure]).astype(np.float32), boxed)


def self_label(logits: Tensor, wanted: Tensor, known: Tensor, boxed: Tensor) -> tuple[Tensor, Tensor]:
    """Lets the network label the pixels of sure boxes itself: those it finds likeliest in the box are object.

    Args:
        logits: (batch, planes, rows, columns).
        wanted: targets of the same shape.
        known: weights of the same shape.
        boxed: 1 inside sure boxes, of the same shape.

    Returns:
        New targets and weights.
    """
    shares = torch.sigmoid(logits.detach()) * boxed
    shares = shares / shares.amax((2, 3), keepdim=True).clamp(min=0.05)
    positive, negative = (shares > 0.6) & (boxed > 0), (shares < 0.2) & (boxed > 0)
    wanted = torch.where(positive, 1.0, torch.where(negative, 0.0, wanted))
    return wanted, torch.where(positive | negative, 0.5, known)
