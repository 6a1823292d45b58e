"""Synthetic photos of coloured things, an extractor that finds them by colour, and what measures them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.datasets import open_dataset
from evaluation.transmission import tools as tools_module
from evaluation.transmission.experiment import Experiment
from evaluation.transmission.photo import Photo, Question
from evaluation.transmission.systems import parse_systems
from evaluation.transmission.tools import Settings, Tools
from receiver.codecs import load_receiver
from transmitter.codecs import load_sender
from transmitter.relevance import Relevance

WIDTH, HEIGHT = 96, 64
COLOURS = {"cat": (200, 60, 60), "dog": (60, 60, 200), "kite": (60, 200, 60)}
SETTINGS = Settings(avif_speed=10, judge=None)
PATIENT = pytest.mark.timeout(400)
"""For imports of 8 s of computing (open_clip, or torch in new processes), which a busy machine stretches."""


class ByColour:
    """An extractor that finds the coloured things of the synthetic photos; counts how often it is asked."""

    name = "embedded"

    def __init__(self):
        self.asked = []

    def __call__(self, image, query):
        self.asked.append(query)
        found = np.zeros(image.shape[:2], np.float32)
        for name, colour in COLOURS.items():
            if name in query or not query:
                found[np.abs(image.astype(int) - colour).max(axis=2) < 50] = 0.9
        return Relevance(found, present=bool(found.any()))


def photo_of(names, seed):
    """Noise with a textured rectangle for each thing; returns the photo and the masks."""
    random = np.random.default_rng(seed)
    image = random.integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    masks = {}
    for place, name in enumerate(names):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[12:44, 8 + 48 * place : 36 + 48 * place] = True
        image[mask] = np.clip(np.array(COLOURS[name]) + random.integers(-40, 40, (int(mask.sum()), 3)), 0, 255)
        masks[name] = mask
    return image, masks


def make_dataset(folder: Path, photos=(("cat", "dog"), ("kite",), ("dog", "cat"))):
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for number, names in enumerate(photos):
        image, masks = photo_of(names, number)
        Image.fromarray(image).save(folder / f"images/p{number}.png")
        for name, mask in masks.items():
            Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"masks/p{number}.{name}.png")
        objects = [{"name": name, "area_fraction": 0.1} for name in names]
        row = {"image": f"images/p{number}.png", "query": " and ".join(names), "captions": []}
        rows.append({**row, "objects_in_query": list(names), "objects": objects})
    (folder / "queries.json").write_text(json.dumps(rows))
    return folder


def scene(tools, seed=0):
    image, masks = photo_of(("cat", "dog"), seed)
    return Photo(image, tools), Question("cat", "kite", masks["cat"])


def find_by_colour(monkeypatch):
    """Has the tools load this extractor instead of weights; returns it."""
    made = ByColour()
    monkeypatch.setattr(tools_module, "load_extractor", lambda name, **_: made)
    return made


@cache
def models():
    """The ladder's two halves, loaded once."""
    return {"ladder": load_sender("ladder")}, {"ladder": load_receiver("ladder")}


def tools_of(settings=SETTINGS):
    return Tools(settings, *models())


def experiment_of(folder):
    """A small experiment over the dataset of a folder."""
    dataset = open_dataset(folder)
    return Experiment(dataset, len(dataset), "pairs", parse_systems("ladder,jpeg"), (10.0, 30.0), SETTINGS)


def make_tiny_clip(folder):
    """Writes random weights of a small CLIP that open_clip then knows as `tiny`; returns the file."""
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (folder / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny").state_dict(), folder / "tiny.pt")
    return folder / "tiny.pt"


@pytest.fixture(name="folder")
def folder_fixture(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture(name="experiment")
def experiment_fixture(folder):
    return experiment_of(folder)


@pytest.fixture(name="tools")
def tools_fixture(monkeypatch):
    find_by_colour(monkeypatch)
    return tools_of()
