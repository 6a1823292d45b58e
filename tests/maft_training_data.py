"""A small MAFT+, and training sets of drawn pictures in both formats."""

import json

import numpy as np
import torch
from PIL import Image

from training.maft_plus.classes import ClassText
from training.maft_plus.samples import Sizes
from training.maft_plus.step import TrainingStep
from training.maft_plus.trainer import Settings
from transmitter.relevance.maft_plus.config import MaftConfig
from transmitter.relevance.maft_plus.model import MaftPlus

SMALL = MaftConfig(
    trunk_depths=(1, 1, 1, 1),
    trunk_dims=(16, 16, 32, 32),
    embed_dim=32,
    clip_head="mlp",
    text_width=16,
    text_heads=1,
    text_layers=1,
    hidden=32,
    encoder_layers=1,
    encoder_ffn=64,
    decoder_layers=2,
    decoder_ffn=64,
    queries=6,
)
"""Sizes that its tensors tell again; with CLIP's own vocabulary, so that it can read names."""

HEIGHT, WIDTH = 64, 128
COLOURS = {"grass": (40, 160, 60), "brick": (180, 70, 40), "sky": (110, 160, 230)}
SETTINGS = Settings(iterations=4, batch=2, rate=1e-3, points=64, sizes=Sizes(64, 128))


def small_model(seed=0):
    """With a teacher."""
    torch.manual_seed(seed)
    model = MaftPlus(SMALL, teacher=True)
    model.backbone_t.load_state_dict(model.backbone.state_dict())
    return model


def random_text(counts=(1, 1, 1), channels=32):
    """Unit vectors in the place of names."""
    vectors = torch.randn(sum(counts), channels, generator=torch.Generator().manual_seed(1))
    return ClassText(torch.nn.functional.normalize(vectors, dim=-1), tuple(counts))


def small_step(seed=0, points=64):
    return TrainingStep(small_model(seed), random_text(), points=points)


def picture(number):
    """(HEIGHT, WIDTH, 3) and (HEIGHT, WIDTH) numbers of classes: one colour at the left of another, some noise."""
    rng = np.random.default_rng(number)
    left, right = rng.permutation(3)[:2]
    edge = int(rng.integers(32, 96))
    labels = np.full((HEIGHT, WIDTH), right, np.uint8)
    labels[:, :edge] = left
    pixels = np.array(list(COLOURS.values()))[labels] + rng.integers(-20, 20, (HEIGHT, WIDTH, 1))
    return pixels.clip(0, 255).astype(np.uint8), labels


def write_label_maps(folder, count=2):
    """A folder of `images`, `labels` and `names.txt`; two classes, and so two segments, in each picture."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "names.txt").write_text("\n".join(COLOURS))
    for number in range(count):
        pixels, labels = picture(number)
        Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number:03}.png")
    return folder


def write_instances(folder):
    """One picture of COCO's format: two cats, one of them in run lengths, and a dog over one of them."""
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "images" / "a.png")
    box = [[0, 0, 1, 0, 1, 3, 0, 3]]
    annotations = [
        {"image_id": 5, "category_id": 17, "segmentation": box, "iscrowd": 0},
        {"image_id": 5, "category_id": 17, "segmentation": {"counts": [20, 4], "size": [4, 6]}, "iscrowd": 1},
        {"image_id": 5, "category_id": 18, "segmentation": box, "iscrowd": 0},
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 4, "width": 6}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder
