"""Training sets on disk, the samples that are made of them, and the score on them."""

import json

import numpy as np
import pytest
import torch
from maft_training_data import COLOURS, picture, random_text, small_model, write_instances, write_label_maps
from PIL import Image

from shared.errors import InvalidInputError
from training.maft_plus import scoring
from training.maft_plus.classes import Classes, class_text, read_names
from training.maft_plus.photos import Photo, label_masks, open_photos
from training.maft_plus.samples import Sizes, prepare, scaled_size
from training.maft_plus.scoring import mean_iou, overlaps

# ---- names ------------------------------------------------------------------


def test_names_have_synonyms_and_values(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("# things\nperson, child,  young  man\n17: cat\n\nsky-other,\n")
    classes = read_names(path)
    assert classes.synonyms == (("person", "child", "young man"), ("cat",), ("sky-other",))
    assert classes.values == (0, 17, 2)
    assert classes.names == ("person", "cat", "sky-other")
    assert len(classes) == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "names no class"),
        (b"cat\n0: dog", "the value 0 to two classes"),
        (b"255: cat", "254 is the highest"),
        (b"3: ,", "has no name"),
        (b"caf\xe9", "no UTF-8 text"),
    ],
)
def test_names_that_are_none_are_told(tmp_path, content, told):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InvalidInputError, match=told):
        read_names(tmp_path / "names.txt")


def test_text_has_a_unit_vector_per_synonym():
    asked = []

    def encode(prompts):
        asked.extend(prompts)
        return torch.randn(len(prompts), 8)

    text = class_text(Classes((("cat",), ("dog", "puppy")), (0, 1)), encode)
    assert text.vectors.shape == (3, 8)
    assert text.counts == (1, 2)
    torch.testing.assert_close(text.vectors.norm(dim=1), torch.ones(3))
    assert len(asked) == 3 * 14
    assert "a photo of a puppy." in asked


# ---- label maps -------------------------------------------------------------


def test_label_maps_give_a_mask_per_class(tmp_path):
    photos = open_photos(write_label_maps(tmp_path / "data", 3))
    assert len(photos) == 3
    assert photos.classes.names == tuple(COLOURS)
    pixels, labels = picture(2)
    photo = photos.read(2)
    assert np.array_equal(photo.pixels, pixels)
    assert list(photo.masks) == sorted(set(labels.ravel()))
    assert all(np.array_equal(mask, labels == number) for number, mask in photo.masks.items())


def test_values_stand_for_what_the_names_say_and_255_for_nothing(tmp_path):
    values = np.array([[255, 7, 7], [200, 255, 7]], np.uint8)
    Image.fromarray(values).save(tmp_path / "map.png")
    masks = label_masks(tmp_path / "map.png", (2, 3), Classes((("a",), ("b",), ("c",)), (200, 1, 7)))
    assert {number: mask.sum() for number, mask in masks.items()} == {0: 1, 2: 3}
    Image.fromarray(np.full((2, 3), 255, np.uint8)).save(tmp_path / "empty.png")
    assert label_masks(tmp_path / "empty.png", (2, 3), Classes((("a",),), (0,))) == {}


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("map.png", np.zeros((2, 4), np.uint8), "is 4x2, its picture 3x2"),
        ("map.png", np.full((2, 3), 9, np.uint8), "has the value 9"),
        ("map.png", np.zeros((2, 3, 3), np.uint8), "is of mode RGB"),
        ("map.jpg", np.zeros((2, 3), np.uint8), "is no PNG"),
    ],
)
def test_label_maps_that_do_not_fit_are_told(tmp_path, name, array, told):
    Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(InvalidInputError, match=told) as caught:
        label_masks(tmp_path / name, (2, 3), Classes((("a",),), (0,)))
    assert str(tmp_path / name) in str(caught.value)


def test_a_cut_off_label_map_is_told(tmp_path):
    folder = write_label_maps(tmp_path / "data", 1)
    path = folder / "labels" / "000.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InvalidInputError, match=r"labels/000\.png is damaged"):
        open_photos(folder).read(0)


def test_pictures_without_a_label_map_are_told_at_once(tmp_path):
    folder = write_label_maps(tmp_path / "data", 3)
    (folder / "labels" / "001.png").unlink()
    (folder / "labels" / "002.png").unlink()
    with pytest.raises(InvalidInputError, match=r"labels/001\.png is missing, and so are 1 more"):
        open_photos(folder)


def test_labels_and_names_may_be_elsewhere(tmp_path):
    folder = write_label_maps(tmp_path / "data", 2)
    (folder / "labels").rename(tmp_path / "maps")
    (folder / "names.txt").rename(tmp_path / "list.txt")
    assert len(open_photos(folder, labels=tmp_path / "maps", names=tmp_path / "list.txt")) == 2
    with pytest.raises(InvalidInputError, match="holds neither"):
        open_photos(folder)


# ---- instances --------------------------------------------------------------


def test_instances_of_a_class_are_one_mask_and_classes_may_overlap(tmp_path):
    photos = open_photos(write_instances(tmp_path / "data"))
    assert photos.classes.names == ("dog", "cat")
    masks = photos.read(0).masks
    box, crowd = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    box[:4, :2] = True
    crowd[:, 5] = True
    assert list(masks) == [0, 1]
    assert np.array_equal(masks[0], box)
    assert np.array_equal(masks[1], box | crowd)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.pop("images"), "lacks 'images'"),
        (lambda content: content["annotations"][0].update(category_id=3), "refers to it in vain"),
        (lambda content: content["images"].clear(), "has no images"),
        (lambda content: content.update(images=7), "no COCO annotation file"),
        (lambda content: content["images"][0].update(file_name="b.png"), r"b\.png is missing"),
    ],
)
def test_annotations_that_are_none_are_told(tmp_path, change, told):
    folder = write_instances(tmp_path / "data")
    content = json.loads((folder / "instances.json").read_text())
    change(content)
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=told):
        open_photos(folder)


@pytest.mark.parametrize(
    "segmentation", [{"counts": [3, 4], "size": [4, 6]}, {"counts": "abc", "size": [4, 6]}, [["a", 1]], 5, {}]
)
def test_outlines_that_cannot_be_drawn_are_told(tmp_path, segmentation):
    folder = write_instances(tmp_path / "data")
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = segmentation
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=r"outline on .*a\.png"):
        open_photos(folder).read(0)


# ---- samples ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 427), (1199, 800)),
        ((800, 1333), (800, 1333)),
        ((300, 900), (444, 1333)),
        ((1000, 1000), (800, 800)),
        ((2, 4000), (1, 1333)),
    ],
)
def test_the_shorter_side_becomes_800_unless_the_longer_one_is_too_long(size, expected):
    assert scaled_size(*size, Sizes()) == expected


def test_masks_go_with_their_picture():
    mask = np.zeros((32, 64), bool)
    mask[:16, :16] = True
    speck = np.zeros((32, 64), bool)
    speck[0, 40] = True
    photo = Photo(np.where(mask, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2), {4: mask, 6: speck})
    for flip in (False, True):
        sample = prepare(photo, Sizes(16, 32), flip=flip, seed=1)
        assert sample.image.shape == (3, 16, 32)
        # A mask of one pixel is gone at half the size.
        assert sample.target.labels.tolist() == [4]
        corner = sample.image[0, :7, -7:] if flip else sample.image[0, :7, :7]
        assert (corner == 255).all()
        assert torch.equal(sample.target.masks[0], sample.image[0] > 127)
        assert int(sample.target.masks.sum()) == 64


def test_a_photo_without_classes_is_a_sample_too():
    sample = prepare(Photo(np.zeros((32, 64, 3), np.uint8), {}), Sizes(32, 64), flip=True, seed=1)
    assert sample.target.labels.dtype == torch.int64
    assert sample.target.masks.shape == (0, 32, 64)


# ---- scores -----------------------------------------------------------------


def test_mean_iou_counts_labelled_pixels_only(monkeypatch):
    left, right = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
    left[:, :4] = True
    right[:, 4:6] = True
    photo = Photo(np.zeros((4, 8, 3), np.uint8), {0: left, 2: right})
    predicted = torch.zeros(4, 8, dtype=torch.int64)
    predicted[:, 5:] = 2
    scores = torch.nn.functional.one_hot(predicted, 3).permute(2, 0, 1).float()
    monkeypatch.setattr(scoring, "class_scores", lambda *_: scores)
    model = small_model().train()
    counts = overlaps(model, random_text(), [photo, photo], Sizes(32, 64))
    assert counts.tolist() == [[32.0, 0.0, 8.0], [40.0, 0.0, 16.0]]
    assert mean_iou(counts) == pytest.approx((32 / 40 + 8 / 16) / 2)
    assert mean_iou(torch.zeros(2, 3)) == 0
    assert model.training


def test_scores_have_the_photos_own_size():
    pixels, _ = picture(0)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    scores = scoring.class_scores(small_model().eval(), random_text((1, 2, 1)), image, (50, 70))
    assert scores.shape == (3, 50, 70)
    assert scores.min() >= 0
