"""Training of the restoration of entropy-coded pictures: it learns, goes on where it stopped, begins with weights."""

import dataclasses

import numpy as np
import pytest
from skimage.data import astronaut, chelsea

from receiver.entropy_restoration import EntropyRestorer
from shared.codec.entropy.background import thumbnail
from shared.patches import PatchGrid, split
from training.entropy.restoration import Run, TrainingSettings
from training.entropy.restoration_pictures import coded_picture, received_picture

SETTINGS = TrainingSettings(fine=8, middle=8, coarse=8, blocks=1, steps=24, batch=4, crop=6, pictures=3, bfloat16=False)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pictures():
    photos = [np.ascontiguousarray(astronaut()[:128, 160:288]), np.ascontiguousarray(chelsea()[60:188, 120:248])]
    mixed = [coded_picture(photo, np.random.default_rng(number)) for number, photo in enumerate(photos)]
    coarse = np.full((16, 16), 104)
    return [*mixed, received_picture(photos[0], coarse, np.zeros_like(coarse, np.bool_), thumbnail(photos[0]))]


def _trained(settings, folder, pictures, **options):
    return Run(settings, folder / "run.pt", lambda _: None, 0, **options).train(pictures)


def _differ(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_run_that_was_stopped_ends_where_it_would_have(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("training.entropy.restoration._CHECKPOINT_STEPS", 8)
    at_once, stopped = tmp_path / "at_once", tmp_path / "stopped"
    at_once.mkdir()
    stopped.mkdir()
    whole = _trained(SETTINGS, at_once, pictures)
    run = Run(SETTINGS, stopped / "run.pt", lambda _: None, 0)
    update, steps = run._update, []

    def stop(batch):
        steps.append(batch)
        if len(steps) > 12:
            raise KeyboardInterrupt
        return update(batch)

    monkeypatch.setattr(run, "_update", stop)
    with pytest.raises(KeyboardInterrupt):
        run.train(pictures)
    assert _differ(whole, _trained(SETTINGS, stopped, pictures)) == 0


def test_weights_are_where_a_run_begins(pictures, tmp_path):
    first = _trained(dataclasses.replace(SETTINGS, steps=4), tmp_path, pictures)
    (tmp_path / "run.pt").unlink(missing_ok=True)
    assert _differ(first, _trained(dataclasses.replace(SETTINGS, steps=0), tmp_path, pictures, start=first)) == 0
    anew = _trained(dataclasses.replace(SETTINGS, steps=0), tmp_path, pictures)
    assert _differ(first, anew) > 0


def test_it_learns_to_bring_a_decoded_picture_nearer(pictures, tmp_path):
    picture = pictures[2]
    run = Run(dataclasses.replace(SETTINGS, steps=300, rate=2e-3), tmp_path / "run.pt", lambda _: None, 0)
    run.train([picture])
    grid = PatchGrid.of(picture.photo)
    qualities, colours = picture.qualities.ravel().astype(np.int16), picture.background.reshape(-1, 3)
    net = run.net.eval()  # their average lags behind for thousands of steps
    restored = EntropyRestorer(net).restore(split(picture.decoded), qualities, grid, colours)
    before, after = (np.square(shown.astype(float) - picture.photo).mean() for shown in (picture.decoded, restored))
    assert after < 0.98 * before
