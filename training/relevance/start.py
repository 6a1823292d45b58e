"""Where training begins: published trunks, and a decoder that says what their classes say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.relevance.answers import answers_path, load_answers
from training.relevance.photos import CATEGORIES, HEIGHT, WIDTH, Photo
from training.relevance.scenes import SCENES
from training.relevance.targets import VOC_CATEGORIES
from training.relevance.teachers import load_detector, load_segmenter
from transmitter.relevance.network import CLIP_CHANNELS, MEANING_CHANNELS, RelevanceNetwork
from transmitter.relevance.text_tower import TextTower

LOOKS_GAIN: Final = 4.2
"""Logit that a class sure of itself adds at the start to phrases that CLIP takes for its name."""

MEANING_GAIN: Final = 3.6
"""The same to phrases that mean its name."""

_POSITIONS_PER_PHOTO: Final = 150
_FIT_STEPS: Final = 150

_SPOKEN_LIST: Final = (
    "sofa: couch, television: tv, monitor: tv, screen: tv, crt: tv, plant: potted plant, table: dining table,"
    "traffic: traffic light, minibike: motorcycle, bag: handbag, ball: sports ball, coffee: coffee table,"
    "swivel: chair, armchair: chair, seat: chair, stool: chair, ship: boat, stove: oven, light: lamp,"
    "conveyer: conveyer belt, plaything: toy, trade: trade name, hood: range hood"
)

_SPOKEN: Final = {pair.split(":")[0].strip(): pair.split(":")[1].strip() for pair in _SPOKEN_LIST.split(",")}
"""What the scene teacher's classes are called here, where its list is cut short or says it otherwise."""


def starting_network(teachers: Path) -> RelevanceNetwork:
    """A network with published trunks and a new decoder."""
    torch.manual_seed(0)
    network = RelevanceNetwork()
    load_segmenter(network.scenes, teachers / "ade20k150_deeplabv3_float.tflite")
    load_segmenter(network.things, teachers / "voc21_deeplabv3_float.tflite")
    load_detector(network.detector, teachers / "yolox_nano_coco80.onnx")
    return network.eval()


def fit_scene_classes(network: RelevanceNetwork, photos: Sequence[Photo], answers: Path) -> float:
    """Fits the scene segmenter's last layer to its teacher, whose own decoder is too slow to ship.

    Returns:
        Share of the positions where both say the same.
    """
    inputs, wanted = _scene_pairs(network, photos, answers)
    optimiser = torch.optim.Adam(network.scenes.classify.parameters(), 0.02)
    weight, bias = network.scenes.classify.weight, network.scenes.classify.bias
    assert bias is not None
    for _ in range(_FIT_STEPS):
        logits = inputs @ weight[:, :, 0, 0].T + bias
        loss = functional.cross_entropy(logits, wanted)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        logits = inputs @ weight[:, :, 0, 0].T + bias
    return float((logits.argmax(1) == wanted.argmax(1)).float().mean())


@torch.no_grad()
def _scene_pairs(network: RelevanceNetwork, photos: Sequence[Photo], answers: Path) -> tuple[Tensor, Tensor]:
    """(positions, 256) features and (positions, 151) the teacher's shares there."""
    rng = np.random.default_rng(0)
    inputs, wanted = [], []
    for photo in tqdm(photos, desc="scene classes", mininterval=10, disable=None):
        image = Image.fromarray(photo.pixels()).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        deep = network.scenes(pixels).deep
        shares = torch.from_numpy(load_answers(answers_path(answers, photo)).scenes).permute(2, 0, 1)[None].float()
        shares = functional.interpolate(shares, deep.shape[2:], mode="bilinear", align_corners=False)
        chosen = torch.from_numpy(rng.choice(deep[0, 0].numel(), _POSITIONS_PER_PHOTO, replace=False))
        inputs.append(deep[0].flatten(1).T[chosen])
        wanted.append(shares[0].flatten(1).T[chosen])
    rows = torch.cat(wanted)
    return torch.cat(inputs), rows / rows.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def speak_for_classes(network: RelevanceNetwork, tower: TextTower, scene_classes: Sequence[str]) -> None:
    """Starts the decoder as the joint opinion of the trunks: each class votes for its own name's vector."""
    mine = {part: name for name, parts in reversed(SCENES.items()) for part in parts}
    scenes = [mine.get(name, _SPOKEN.get(name, name)) for name in scene_classes[1:]]
    vectors = tower.encode([*CATEGORIES, *scenes, *VOC_CATEGORIES])
    vectors = vectors * torch.tensor([LOOKS_GAIN] * CLIP_CHANNELS + [MEANING_GAIN] * MEANING_CHANNELS)
    silent = torch.zeros(1, vectors.shape[1])
    detector, scene, thing = torch.split(vectors, [len(CATEGORIES), len(scenes), len(VOC_CATEGORIES)])
    # A thing that both the detector and a segmenter see should not count twice in full; the middles of objects
    # are painted as boxes too.
    rows = torch.cat([detector * 0.3, silent, scene, silent, thing * 0.6])
    network.decoder.classes.weight.copy_(rows.T[:, :, None, None])
    network.decoder.boxes.weight.copy_(detector.T[:, :, None, None])
    # What the shapes say starts small beside it.
    for parameter in network.decoder.embed.parameters():
        parameter.mul_(0.3)
