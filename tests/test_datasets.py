"""Datasets in both formats: what is read, and that whatever is wrong is named."""

import json

import numpy as np
import pytest
from evaluation_data import HEIGHT, WIDTH, corner, folder_fixture, stripe, write_coco  # noqa: F401 - a fixture
from PIL import Image
from pycocotools import mask as coco_mask

from evaluation.datasets import open_dataset, patch_means
from shared.errors import InvalidInputError


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "val")


def test_patch_means_go_in_raster_order():
    plane = np.zeros((16, 24), np.float32)
    plane[:8, 8:16], plane[8:, :4] = 1, 1
    assert patch_means(plane).tolist() == [0, 1, 0, 0.5, 0, 0]


def test_folder(folder):
    dataset = open_dataset(folder)
    assert (dataset.name, len(dataset), dataset.stems) == ("set", 2, ("one", "two"))
    first, second = dataset
    assert (first.query, first.asked, first.captions) == ("cat and tv set", ("cat", "tv set"), ("a photo called one",))
    assert list(first.masks) == ["cat", "tv set", "mouse", "crumb"]
    assert first.image.shape == (HEIGHT, WIDTH, 3)
    assert first.image.dtype == np.uint8
    assert (second.masks["dog"] == stripe(0)).all()
    assert dataset[1].stem == "two"
    with pytest.raises(IndexError):
        dataset[2]


def test_truth_is_more_than_half_of_a_patch(folder):
    first = open_dataset(folder)[0]
    assert (first.mask(("cat", "mouse")) == (stripe(0) | corner(8))).all()
    truth = first.truth(("cat", "mouse"))
    assert truth.shape == (150,)
    assert np.flatnonzero(truth)[:6].tolist() == [0, 1, 2, 3, 4, 14]
    assert truth.sum() == 51
    assert not first.truth(("crumb",)).any()
    assert not first.truth(()).any()
    with pytest.raises(KeyError):
        first.mask(("unicorn",))


def test_limit_takes_the_first(folder):
    limited = open_dataset(folder, limit=1)
    assert limited.stems == ("one",)
    assert limited.fingerprint != open_dataset(folder).fingerprint
    assert open_dataset(folder).fingerprint == open_dataset(folder).fingerprint


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_of_other_depths(folder, mode):
    path = folder / "masks/two.dog.png"
    bright = {"L": 1, "P": 1, "I;16": 65_535}[mode]
    plane = (stripe(0) * bright).astype(np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(plane)
    if mode == "P":
        picture.putpalette([0, 0, 0, 200, 200, 200])
    picture.save(path)
    assert (open_dataset(folder)[1].masks["dog"] == stripe(0)).all()


def damage_rows(change):
    def damage(folder):
        rows = json.loads((folder / "queries.json").read_text())
        (folder / "queries.json").write_text(json.dumps(change(rows)))

    return damage


def without(key):
    return damage_rows(lambda rows: [{name: value for name, value in rows[0].items() if name != key}])


def changed(**values):
    return damage_rows(lambda rows: [{**rows[0], **values}])


FOLDER_FAULTS = {
    "no folder": (lambda folder: folder.rename(folder.parent / "away"), "set is no folder"),
    "no list": (lambda folder: (folder / "queries.json").unlink(), "has no queries.json"),
    "broken list": (lambda folder: (folder / "queries.json").write_text('[{"image": '), "queries.json is no JSON"),
    "no text": (lambda folder: (folder / "queries.json").write_bytes(b"\xff\xfe\x00"), "queries.json is no JSON"),
    "no samples": (damage_rows(lambda _rows: []), "queries.json names no photo"),
    "no array": (damage_rows(lambda rows: {"photos": rows}), "queries.json is no list"),
    "no query": (without("query"), "entry 0 lacks 'query'"),
    "no objects": (without("objects"), "entry 0 lacks 'objects'"),
    "odd objects": (changed(objects=7), "entry 0 is not as it should be"),
    "nothing asked": (changed(objects_in_query=[]), "entry 0 asks for no object"),
    "asked for what is not there": (changed(objects_in_query=["dodo"]), "entry 0 asks for 'dodo'"),
    "twice": (damage_rows(lambda rows: [rows[0], rows[0]]), "names two photos 'one'"),
    "no photo": (lambda folder: (folder / "images/two.png").unlink(), "images/two.png is missing"),
    "no mask": (lambda folder: (folder / "masks/one.tv_set.png").unlink(), "masks/one.tv_set.png is missing"),
    "broken photo": (lambda folder: (folder / "images/two.png").write_bytes(b"\x89PNG\r\n"), "images/two.png is no pi"),
    "empty photo": (lambda folder: (folder / "images/two.png").write_bytes(b""), "images/two.png is empty"),
    "broken mask": (lambda folder: (folder / "masks/two.dog.png").write_bytes(b"no"), "two.dog.png does not decode"),
    "mask of other size": (
        lambda folder: Image.new("1", (60, 40)).save(folder / "masks/two.cup.png"),
        "two.cup.png is 60x40, its photo 120x80",
    ),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_what_is_wrong_with_a_folder_is_named(folder, fault):
    damage, words = FOLDER_FAULTS[fault]
    damage(folder)
    with pytest.raises(InvalidInputError, match=words.replace(".", r"\.")) as caught:
        list(open_dataset(folder))
    assert caught.value.field == "dataset"


def test_too_few_photos_asked_for(folder):
    with pytest.raises(InvalidInputError, match="limit"):
        open_dataset(folder, limit=0)


def test_coco_of_two_objects(coco):
    dataset = open_dataset(coco.parent / "val", coco)
    assert dataset.stems == ("002", "003", "004", "005")  # the first has a single category
    last = dataset[3]
    assert last.image.shape == (320, 480, 3)
    assert (last.query, last.asked) == ("dining table and cup", ("dining table", "cup"))
    table, cup, spoon = (last.masks[name] for name in ("dining table", "cup", "spoon"))
    assert (cup == stripe(1, 320, 480)).all()
    assert (spoon == stripe(2, 320, 480)).all()
    assert (table == (stripe(0, 320, 480) | stripe(1, 320, 480))).all()
    assert last.truth(("cup",)).sum() == 40 * 20


def test_coco_of_one_object(coco):
    dataset = open_dataset(coco.parent / "val", coco, objects=1)
    assert len(dataset) == 5
    assert {(sample.query, sample.asked) for sample in dataset} == {("dining table", ("dining table",))}


def test_a_coco_photo_of_another_size_than_its_outlines(coco):
    Image.new("RGB", (33, 99)).save(coco.parent / "val/002.png")
    sample = open_dataset(coco.parent / "val", coco, size=(60, 40))[0]
    assert sample.image.shape == (40, 60, 3)
    assert (sample.masks["cup"] == stripe(1, 40, 60)).all()


def test_the_draw_of_coco_depends_on_the_seed_alone(coco):
    def drawn(limit, seed=0):
        return open_dataset(coco.parent / "val", coco, limit, seed=seed).stems

    assert len(drawn(2)) == 2
    assert set(drawn(1)) < set(drawn(2)) < set(drawn(3)) < set(drawn(4))
    assert len({drawn(2, seed) for seed in range(8)}) > 1
    before = drawn(2)
    content = json.loads(coco.read_text())
    coco.write_text(json.dumps({key: value[::-1] for key, value in content.items()}))
    assert drawn(2) == before


def test_coco_photos_may_lie_in_a_folder_of_images(coco):
    val = coco.parent / "val"
    val.rename(coco.parent / "images")
    val.mkdir()
    (coco.parent / "images").rename(val / "images")
    assert len(open_dataset(val, coco)) == 4


def test_coco_strings_of_any_runs(coco):
    spots = np.random.default_rng(1).random((40, 60)) < 0.5
    spots[:, 20:50] = False
    packed = coco_mask.encode(np.asfortranarray(spots))["counts"].decode()
    content = json.loads(coco.read_text())
    set_outline({"size": [40, 60], "counts": packed})(content)
    coco.write_text(json.dumps(content))
    assert (open_dataset(coco.parent / "val", coco, size=(60, 40))[3].masks["spoon"] == spots).all()


def set_outline(segmentation):
    def change(content):
        content["annotations"][-1]["segmentation"] = segmentation

    return change


def cut(segmentation):
    segmentation["counts"] = segmentation["counts"][:-1]


COCO_FAULTS = {
    "no images": (lambda content: content.pop("images"), "lacks 'images'"),
    "no list": (lambda content: content.update(images=3), "is no COCO annotation file"),
    "no size": (lambda content: content["images"][4].update(width="wide"), "a side of 'wide'"),
    "unknown photo": (lambda content: content["annotations"][0].update(image_id=99), "lacks 99"),
    "no objects": (lambda content: content.update(annotations=[]), "names no photo"),
    "same name": (lambda content: content["images"][1].update(file_name="x/003.png"), "missing"),
    "two points": (set_outline([[1, 1, 2, 2]]), "at least three points"),
    "a point at no place": (set_outline([[1, 1, 2, 2, float("nan"), 3]]), "a point lies at nan"),
    "a point far off": (set_outline([[1, 1, 2, 2, 1e12, 3]]), "a point lies at"),
    "short runs": (set_outline({"size": [40, 60], "counts": [5, 5]}), "do not add up"),
    "broken runs": (set_outline({"size": [40, 60], "counts": "0a0"}), "do not add up"),
    "cut runs": (lambda content: cut(content["annotations"][2]["segmentation"]), "do not add up"),
    "no runs": (set_outline({"size": [40, 60], "counts": ""}), "do not add up"),
    "fractions": (set_outline({"size": [40, 60], "counts": [0.5, 2399.5]}), "do not add up"),
    "runs of other size": (set_outline({"size": [4, 6], "counts": [24]}), "of size"),
    "no outline": (set_outline(None), "005.png is damaged"),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_what_is_wrong_with_coco_is_named(coco, fault):
    damage, words = COCO_FAULTS[fault]
    content = json.loads(coco.read_text())
    damage(content)
    coco.write_text(json.dumps(content))
    with pytest.raises(InvalidInputError, match=words):
        open_dataset(coco.parent / "val", coco)


def test_coco_files_that_are_not_there(coco):
    val = coco.parent / "val"
    with pytest.raises(InvalidInputError, match=r"annotations: cannot read .*nowhere.json"):
        open_dataset(val, coco.parent / "nowhere.json")
    with pytest.raises(InvalidInputError, match="objects: 3"):
        open_dataset(val, coco, objects=3)
    coco.write_text("{")
    with pytest.raises(InvalidInputError, match=r"annotations: .*instances.json is no JSON"):
        open_dataset(val, coco)


def test_a_coco_photo_that_is_missing(coco):
    (coco.parent / "val/003.png").unlink()
    with pytest.raises(InvalidInputError, match=r"dataset: .*003.png is missing; .*instances.json names it"):
        open_dataset(coco.parent / "val", coco)
