"""A small MAFT+ from random weights learns four real photos by heart: `make slow-test`."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from maft_training_data import random_text, small_model

from training.maft_plus.photos import open_photos
from training.maft_plus.points import PictureDraws
from training.maft_plus.processes import Processes
from training.maft_plus.samples import Sizes, prepare
from training.maft_plus.scoring import mean_iou, overlaps
from training.maft_plus.step import TrainingStep, mask_count
from training.maft_plus.trainer import Pace, Settings, Trainer
from transmitter.relevance.maft_plus.mask_decoder import resize
from transmitter.relevance.maft_plus.model import normalise_and_pad

PHOTOS = (9, 34, 36, 142)
"""Bowls with broccoli; a zebra; a person under an umbrella; a sandwich on a table. Ten segments."""

SIZES = Sizes(128, 192)


def four_photos(source, folder):
    """The part of COCO's folder that is about `PHOTOS`."""
    content = json.loads((source / "instances.json").read_text())
    content["images"] = [row for row in content["images"] if row["id"] in PHOTOS]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in PHOTOS]
    used = {row["category_id"] for row in content["annotations"]}
    content["categories"] = [row for row in content["categories"] if row["id"] in used]
    (folder / "images").mkdir(parents=True)
    (folder / "instances.json").write_text(json.dumps(content))
    for row in content["images"]:
        shutil.copy(source / "images" / row["file_name"], folder / "images")
    return folder


@torch.no_grad()
def matched(step, photos):
    """IoU of every segment with the mask of its query, and the whole loss, a mean over the photos."""
    step.eval()
    ious, totals = [], []
    for number in range(len(photos)):
        sample = prepare(photos.read(number), SIZES, flip=False, seed=0)
        draws = PictureDraws([number], torch.device("cpu"))
        made = step([sample.image], [sample.target], mask_count([sample.target]), draws)
        size = normalise_and_pad([sample.image]).shape[2:]
        height, width = sample.image.shape[1:]
        masks = resize(made.masks, size)[0, :, :height, :width] > 0
        pairs = made.matches[0][0]
        own, true = masks[pairs.queries], sample.target.masks[pairs.segments]
        ious += ((own & true).sum((1, 2)) / (own | true).sum((1, 2))).tolist()
        totals.append(float(sum(made.terms.values())))
    return ious, sum(totals) / len(totals)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_four_photos_are_learnt_by_heart(tmp_path):
    source = Path(os.environ.get("MMSC_DATA", "../shared/data")) / "coco_train_masks"
    assert source.is_dir(), f"{source} is missing; MMSC_DATA says where the data is"
    photos = open_photos(four_photos(source, tmp_path / "data"))
    text = random_text((1,) * len(photos.classes))
    model = small_model()
    step = TrainingStep(model, text, points=1_024)
    # One photo at a time: padded to one another's size they would be learnt together with their padding.
    settings = Settings(iterations=1_000, batch=1, rate=3e-3, points=1_024, sizes=SIZES, stochastic_depth=False)
    _, loss_before = matched(step, photos)
    alone = Processes(torch.device("cpu"))
    Trainer(step, photos, settings, pace=Pace(workers=0), out=tmp_path, processes=alone).run()
    ious, loss = matched(step, photos)
    found = (photos.read(number) for number in range(len(photos)))
    score = mean_iou(overlaps(model, text, found, SIZES))
    print(
        f"loss {loss_before:.2f} to {loss:.2f}, IoU of {len(ious)} masks {sum(ious) / len(ious):.3f}, mIoU {score:.3f}"
    )
    assert loss_before > 30
    assert loss < 5
    assert sum(ious) / len(ious) > 0.9
    assert score > 0.7
