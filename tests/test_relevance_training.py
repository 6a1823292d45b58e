"""What the relevance training learns from: windows of photos, targets, losses; and where the network begins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from training.relevance.answers import Answers, answers_path, load_answers
from training.relevance.held_out import find_threshold, held_out, report
from training.relevance.losses import dense_loss, label_loss, presence_loss, rivalry_loss
from training.relevance.photos import CATEGORIES, COLUMNS, ROWS, Crop, Photo, draw_crop
from training.relevance.phrase_book import PhraseBook
from training.relevance.samples import Pools, Sampler
from training.relevance.scenes import SCENES, scene_classes
from training.relevance.targets import ANYTHING, COLUMN_NAMES, TargetMaker, self_label
from training.relevance.vision import Settings, Trainer, mean_state, unchanged_tensors
from transmitter.relevance.detector import Detector
from transmitter.relevance.network import TEXT_CHANNELS, RelevanceNetwork
from transmitter.relevance.segmenter import Segmenter
from transmitter.relevance.text_tower import TextTower

WHOLE = Crop(0, 0, 1, 1, mirrored=False)
CAT, DOG, PERSON = (CATEGORIES.index(name) for name in ("cat", "dog", "person"))
SKY = COLUMN_NAMES.index("sky")


@pytest.fixture
def maker():
    parts = sorted({part for parts in SCENES.values() for part in parts})
    return TargetMaker(["background", *parts])


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 480, 3), np.uint8)).save(path)
    return Photo(path)


def left_half():
    mask = np.zeros((320, 480), np.bool_)
    mask[:, :240] = True
    return mask


def answers(boxes=(), things=None):
    empty = np.zeros((0, 0, 0), np.uint8)
    return Answers(
        np.array(boxes, np.float32).reshape(-1, 6),
        np.zeros((65, 65, 21), np.uint8) if things is None else things,
        empty,
    )


def test_window_maps_boxes_into_itself():
    window = Crop(0.5, 0, 1, 1, mirrored=False)
    assert window.inside(0.5, 0.25, 0.75, 1) == pytest.approx((0, 0.25, 0.5, 1))
    assert replace(window, mirrored=True).inside(0.5, 0.25, 0.75, 1) == pytest.approx((0.5, 0.25, 1, 1))


def test_window_cuts_masks_as_it_cuts_boxes():
    window = Crop(0.25, 0, 0.75, 1, mirrored=True)
    grid = window.grid(left_half())
    assert grid.shape == (ROWS, COLUMNS)
    left, _, right, _ = window.inside(0, 0, 0.5, 1)
    assert grid[:, round(left * COLUMNS) : round(right * COLUMNS)].min() > 0.99
    assert grid.mean() == pytest.approx(0.5, abs=0.01)


def test_windows_lie_inside_the_photo_and_keep_their_aspect():
    rng = np.random.default_rng(0)
    for _ in range(50):
        window = draw_crop(rng, (640, 427), rng.uniform(0.3, 1), mirrored=False, aspect=0.75)
        assert 0 <= window.left < window.right <= 1 + 1e-9
        assert 0 <= window.top < window.bottom <= 1 + 1e-9
        width, height = (window.right - window.left) * 640, (window.bottom - window.top) * 427
        assert width / height == pytest.approx(0.75)


def test_masked_photo_is_known_everywhere(maker, photo):
    target = maker(replace(photo, masks={"cat": left_half()}, complete=True), None, WHOLE)
    assert target.wanted[CAT, :, :30].min() == 1
    assert target.wanted[CAT, :, 30:].max() == 0
    assert target.known[: len(CATEGORIES)].min() == 1
    assert np.array_equal(target.wanted[COLUMN_NAMES.index("animal")], target.wanted[CAT])
    assert np.array_equal(target.wanted[COLUMN_NAMES.index(ANYTHING)], target.wanted[CAT])


def test_sure_box_is_left_to_the_network_and_its_outside_is_empty(maker, photo):
    target = maker(photo, answers([(DOG, 0.9, 0, 0, 0.5, 1)]), WHOLE)
    assert target.known[DOG, :, :30].max() == 0
    assert target.boxed[DOG, :, :30].min() == 1
    assert target.known[DOG, :, 30:].min() > 0
    assert target.wanted[DOG].max() == 0


@pytest.mark.parametrize(("caption", "boxed"), [("Two puppies on a lawn", 1), ("A lawn", 0)])
def test_caption_makes_a_faint_box_sure(maker, photo, caption, boxed):
    told = replace(photo, captions=(caption,))
    target = maker(told, answers([(DOG, 0.2, 0, 0, 0.5, 1)]), WHOLE)
    assert target.boxed[DOG].max() == boxed


def test_what_a_caption_names_and_no_box_shows_may_be_anywhere(maker, photo):
    target = maker(replace(photo, captions=("a cat",)), answers(), WHOLE)
    assert target.known[CAT].max() == 0
    assert target.known[DOG].min() > 0


def test_segmentation_counts_where_a_box_confirms_it(maker, photo):
    things = np.zeros((65, 65, 21), np.uint8)
    things[:, :32, 8] = 255  # PASCAL VOC's cat
    confirmed = maker(photo, answers([(CAT, 0.5, 0, 0, 1, 1)], things), WHOLE)
    assert confirmed.wanted[CAT, :, :28].min() > 0.9
    assert confirmed.known[CAT, :, :28].min() > 0.5
    assert maker(photo, answers([], things), WHOLE).wanted[CAT].max() == 0


def test_scenes_give_way_to_what_people_drew(photo):
    classes = ["background", *sorted({part for parts in SCENES.values() for part in parts})]
    shares = np.zeros((65, 65, len(classes)), np.uint8)
    shares[..., classes.index("sky")] = 255
    seen = Answers(np.zeros((0, 6), np.float32), np.zeros((0, 0, 0), np.uint8), shares)
    target = TargetMaker(classes)(replace(photo, masks={"cat": left_half()}, complete=True), seen, WHOLE)
    assert target.known[SKY, :, :30].max() == 0
    assert target.known[SKY, :, 30:].min() > 0
    assert target.wanted[SKY, :, 30:].min() > 0.9


def test_every_scene_is_made_of_classes_that_the_teacher_has():
    labels = "\n".join(f"{number}\t{name}" for number, name in enumerate(("wall", "sky"), start=1))
    assert scene_classes(labels) == ["background", "wall", "sky"]


def test_network_labels_the_likeliest_pixels_of_a_box():
    logits = torch.full((1, 1, 4, 4), -4.0)
    logits[..., :2] = 3
    none = torch.zeros_like(logits)
    wanted, known = self_label(logits, none, none, torch.ones_like(logits))
    assert wanted[..., :2].min() == 1
    assert wanted[..., 2:].max() == 0
    assert known.min() == 0.5


@pytest.mark.parametrize("loss", [dense_loss, presence_loss])
def test_losses_fall_where_the_answer_is_right(loss):
    wanted = torch.zeros(1, 2, 20, 20)
    wanted[0, 0, :10] = 1
    known = torch.ones_like(wanted)
    right, wrong = 8 * (wanted * 2 - 1), -8 * (wanted * 2 - 1)
    assert (
        loss(right, wanted, known) < 0.05 < loss(torch.zeros_like(wanted), wanted, known) < loss(wrong, wanted, known)
    )


def test_rivals_are_the_categories_that_are_known_not_to_be_there():
    wanted, known = torch.zeros(1, 3, 20, 20), torch.ones(1, 3, 20, 20)
    wanted[0, 0, :10] = 1
    logits = torch.zeros_like(wanted)
    assert rivalry_loss(logits, wanted, known) == pytest.approx(np.log(3), abs=1e-4)
    logits[0, 0] = 9
    assert rivalry_loss(logits, wanted, known) < 0.01
    logits[0, 1] = 18
    assert rivalry_loss(logits, wanted, known) > 1
    known[0, 1] = 0
    assert rivalry_loss(logits, wanted, known) < 0.01
    known[0, 1], wanted[0, 1] = 1, 0.5
    assert rivalry_loss(logits, wanted, known) < 0.01


def test_boxes_are_painted_about_the_patches_and_learn_from_it():
    torch.manual_seed(0)
    detector = Detector().eval()
    with torch.no_grad():
        for head in detector.heads:
            head.classify.bias.fill_(-20)
            head.objectness.bias.fill_(-20)
        coarse = detector.heads[2]
        coarse.classify.bias[CAT], coarse.objectness.bias[:] = 20, 20
        coarse.box.weight.zero_()
        coarse.box.bias.copy_(torch.tensor([0, 0, np.log(3), np.log(1)]))
    painted = detector(torch.zeros(1, 3, 96, 128)).painted
    assert painted.shape == (1, 80, 12, 16)
    assert painted[0, DOG].max() == 0
    assert 0.5 < painted[0, CAT].max() <= 1
    painted.sum().backward()
    assert coarse.box.bias.grad.abs().min() > 0


def test_presence_is_not_denied_where_it_is_not_known():
    wanted, known = torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 20, 20)
    loud = torch.full_like(wanted, 5)
    assert presence_loss(loud, wanted, known) > 1
    known[..., 0, 0] = 0
    assert presence_loss(loud, wanted, known) == 0


def test_labels_belong_to_what_is_salient_and_not_to_other_photos():
    salient = torch.zeros(1, 8, 8)
    salient[:, :4] = 0.9
    logits = torch.full((1, 2, 8, 8), -6.0)
    logits[:, 0, :4] = 6
    others = torch.tensor([[False, True]])
    right = label_loss(logits, salient, [0], others)
    assert right < 0.05 < label_loss(logits.flip(1), salient, [0], others)


@pytest.fixture
def trainer(maker, photo, tmp_path):
    torch.manual_seed(0)
    network, tower = RelevanceNetwork(), TextTower(["cat", "dog"]).eval()
    masked = replace(photo, masks={"cat": left_half()}, complete=True)
    pools = Pools(((masked,), (), (), (replace(photo, label="dog"),)), (1, 0, 0, 1))
    labels = ["dog", *(f"thing {number}" for number in range(16))]
    book = PhraseBook(tower, labels, {"cat": torch.nn.functional.normalize(torch.randn(2, 512), dim=1)})
    sampler = Sampler(pools, maker, [tmp_path], seed=0)
    return Trainer(network, book, sampler, Settings(2, 1, check_every=2), tmp_path / "vision.pt")


def test_decoder_learns_first_and_the_trunks_after(trainer, tmp_path):
    start = RelevanceNetwork()
    start.load_state_dict(trainer.network.state_dict())
    trainer._one_step()
    names = unchanged_tensors(trainer.network, start)
    assert any(name.startswith("detector.") for name in names)
    assert not torch.equal(trainer.network.decoder.classes.weight, start.decoder.classes.weight)
    trainer._one_step()
    trainer._one_step()
    assert not [name for name in unchanged_tensors(trainer.network, start) if name.endswith("stem.conv.weight")]


def test_interrupted_training_goes_on(trainer, tmp_path):
    trainer.run(lambda _: "fine")
    again = Trainer(RelevanceNetwork(), trainer._book, trainer._sampler, trainer._settings, tmp_path / "vision.pt")
    assert again.step == 2
    assert torch.equal(again.network.decoder.classes.weight, trainer.network.decoder.classes.weight)
    averaged, anything = again.average()
    assert torch.allclose(averaged.decoder.classes.weight, trainer.smooth.decoder.classes.weight)
    assert torch.allclose(anything, trainer.smooth_anything)


def test_mean_of_states():
    states = [{"weight": torch.full((2,), value), "count": torch.tensor(int(value))} for value in (1.0, 4.0)]
    mean = mean_state(states)
    assert torch.equal(mean["weight"], torch.full((2,), 2.5))
    assert mean["count"] == 4


def test_answers_are_kept_as_given(photo, tmp_path):
    said = answers([(CAT, 0.5, 0, 0, 1, 1)])
    np.savez(answers_path(tmp_path, photo), boxes=said.boxes, things=said.things, scenes=said.scenes)
    assert np.array_equal(load_answers(answers_path(tmp_path, photo)).boxes, said.boxes)


def test_held_out_photos_are_scored(photo):
    right = np.zeros((320, 480), np.bool_)
    right[:, 300:] = True
    photos = held_out([replace(photo, masks={"cat": left_half(), "dog": right}, complete=True)])
    assert list(photos[0].truths) == [CAT, DOG]
    network = RelevanceNetwork().eval()
    said = report(network, TextTower(["cat", "dog"]).eval(), torch.ones(TEXT_CHANNELS), photos)
    assert said.startswith("single 0.")


def test_threshold_parts_present_from_absent():
    peaks = np.array([0.1, 0.2, 0.3, 0.7, 0.8], np.float32)
    assert 0.3 < find_threshold(peaks, np.array([False, False, False, True, True])) < 0.7


def test_a_present_object_counts_more_than_an_absent_one():
    rng = np.random.default_rng(0)
    absent, present = 1 / (1 + np.exp(-rng.normal(-2, 1, 500))), 1 / (1 + np.exp(-rng.normal(2, 1, 500)))
    peaks = np.concatenate([absent, present]).astype(np.float32)
    threshold = find_threshold(peaks, np.arange(1000) >= 500)
    assert 0.3 < threshold < 0.48, "below the middle, where both kinds are as likely"
    assert find_threshold(1 - peaks, np.arange(1000) < 500) == pytest.approx(threshold, abs=0.05)


@pytest.mark.parametrize(("stride", "size"), [(8, (8, 12)), (16, (4, 6))])
def test_segmenter_keeps_its_output_stride(stride, size):
    segments = Segmenter(0.5, 21, stride).eval()(torch.zeros(1, 3, 64, 96))
    assert segments.fine.shape == (1, 16, 8, 12)
    assert segments.deep.shape[2:] == segments.shares.shape[2:] == size
    assert segments.shares.sum(1).allclose(torch.ones(1, *size))


def test_samples_of_the_fine_map_sit_in_the_middle_of_the_patches():
    segmenter = Segmenter(0.5, 21, 8)
    offset = 0
    for stride, module in ((1, segmenter.blocks[0]), (2, segmenter.blocks[2]), (4, segmenter.blocks[4])):
        conv = module if stride == 1 else module.layers[1]
        offset += stride * (1 - conv.pad[0])
    assert abs(offset - 3.5) <= 0.5
