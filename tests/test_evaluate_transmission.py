"""`mmsc evaluate transmission`: metrics by hand, bytes within budgets, systems that rank as they must, and resuming."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from client import cli
from evaluation.datasets import open_dataset
from evaluation.partial import PARTIAL_SUFFIX
from evaluation.transmission import tools as tools_module
from evaluation.transmission.blur import blurred_background, kept_share
from evaluation.transmission.clip import ClipScorer
from evaluation.transmission.contract import Outcome
from evaluation.transmission.experiment import Experiment
from evaluation.transmission.figures import Strip, draw_curves, draw_strip
from evaluation.transmission.measure import budget_bytes
from evaluation.transmission.metrics import CAP_DB, mean_squared_error, measure, psnr_db, relevance_l1, ssim
from evaluation.transmission.patches import PatchSender
from evaluation.transmission.photo import Photo, Question
from evaluation.transmission.report import markdown, rows_of
from evaluation.transmission.run import evaluate
from evaluation.transmission.stills import Files, StillSender, avif, jpeg, jxl, webp
from evaluation.transmission.strips import draw_strips
from evaluation.transmission.systems import CODECS, DEFAULT_SYSTEMS, known, parse_systems
from evaluation.transmission.tools import Settings, Tools
from receiver.codecs import load_receiver
from shared.errors import InvalidInputError
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


@pytest.fixture(scope="session")
def models():
    return {"ladder": load_sender("ladder")}, {"ladder": load_receiver("ladder")}


@pytest.fixture
def extractor(monkeypatch):
    made = ByColour()
    monkeypatch.setattr(tools_module, "load_extractor", lambda name, **_: made)
    return made


@pytest.fixture
def tools(models, extractor):
    return Tools(SETTINGS, *models)


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


@pytest.fixture
def folder(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture
def experiment(folder):
    dataset = open_dataset(folder)
    return Experiment(dataset, len(dataset), "pairs", parse_systems("ladder,jpeg"), (10.0, 30.0), SETTINGS)


@pytest.fixture
def notes():
    return []


def scene(tools, seed=0):
    image, masks = photo_of(("cat", "dog"), seed)
    return Photo(image, tools), Question("cat", "kite", masks["cat"])


# ---- metrics -------------------------------------------------------------------------------------


def test_masked_mse_looks_under_the_mask_only(tools):
    photo, question = scene(tools)
    received = photo.image.copy()
    received[~question.mask] = 0
    exact = measure(photo, question, received)
    assert (exact.masked_mse, exact.masked_psnr_db) == (0, CAP_DB)
    assert exact.psnr_db < 15
    received = photo.image.astype(int)
    received[question.mask] += np.where(received[question.mask] > 128, -3, 3)
    found = measure(photo, question, received.astype(np.uint8))
    assert found.masked_mse == pytest.approx(9)
    assert found.masked_psnr_db == pytest.approx(10 * math.log10(255**2 / 9))
    share = question.mask.mean()
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / (9 * share)))
    assert found.to_json()["exact"] is False


def test_weights_weigh_the_error():
    original, received = np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    received[0, 0], received[0, 1] = 2, 4
    assert mean_squared_error(original, received) == 10
    assert mean_squared_error(original, received, np.array([[0.75, 0.25]], np.float32)) == 7


def test_the_same_picture_counts_as_the_cap(tools):
    photo, question = scene(tools)
    found = measure(photo, question, photo.image).to_json()
    assert found["psnr_db"] == found["masked_psnr_db"] == CAP_DB == 100
    assert found["ssim"] == 1
    assert found["exact"] is found["masked_exact"] is True
    assert found["relevance_l1"] is found["clip_score"] is None
    assert psnr_db(1e-12) == CAP_DB


def test_ssim_is_scikit_images_where_its_window_fits():
    one, other = photo_of(("cat",), 0)[0], photo_of(("cat",), 1)[0]
    assert ssim(one, other) == pytest.approx(structural_similarity(one, other, channel_axis=2, data_range=255))
    assert ssim(one[:5, :9], one[:5, :9]) == 1
    assert ssim(one[:2], other[:2]) is None


def test_relevance_l1_is_the_judges_mean_difference(models, extractor):
    photo, question = scene(Tools(replace(SETTINGS, judge="embedded"), *models))
    received = photo.image.copy()
    lost = question.mask & (np.arange(HEIGHT) < 20)[:, None]
    received[lost] = 110
    before = extractor(photo.image, "cat").map
    expected = 0.9 * (before[lost] > 0).sum() / before.size
    assert relevance_l1(photo, "cat", received) == pytest.approx(expected, rel=1e-5)
    assert relevance_l1(photo, "cat", photo.image) == 0


# ---- stills --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [jpeg(), webp(), avif(10), jxl()], ids=lambda form: form.name)
def test_the_search_finds_a_file_that_fits_and_the_next_does_not(form):
    files = Files(photo_of(("cat", "dog"), 0)[0], form)
    smallest, largest = (len(files.file(step)[0]) for step in (0, len(form.steps) - 1))
    assert files.best_within(smallest - 1) is None
    assert files.best_within(largest) == len(form.steps) - 1
    limit_bytes = (smallest + largest) // 2
    step = files.best_within(limit_bytes)
    assert len(files.file(step)[0]) <= limit_bytes < len(files.file(step + 1)[0])


def test_what_was_asked_before_changes_nothing():
    image = photo_of(("cat", "dog"), 0)[0]
    fresh, used = (StillSender(jpeg(), image, image, None) for _ in range(2))
    for limit_bytes in (1000, 1500, 3000, 5000):
        used.send(limit_bytes)
    one, other = fresh.send(2000), used.send(2000)
    assert (one.setting, one.wire_bytes) == (other.setting, other.wire_bytes)
    assert (one.picture == other.picture).all()


def test_small_budgets_are_met_by_a_smaller_photo():
    image = np.asarray(Image.fromarray(photo_of(("cat", "dog"), 0)[0]).resize((384, 256)))
    sender = StillSender(jpeg(), image, image, None)
    smallest = len(sender._at(1).files.file(0)[0])
    outcome = sender.send(smallest - 100)
    assert outcome.fits
    assert outcome.wire_bytes < smallest
    assert "x" in outcome.setting
    assert outcome.picture.shape == image.shape
    assert "x" not in sender.send(image.nbytes).setting


def test_what_cannot_fit_is_the_smallest_and_says_so():
    image = photo_of(("cat", "dog"), 0)[0]
    outcome = StillSender(jpeg(), image, image, None).send(50)
    assert not outcome.fits
    assert outcome.wire_bytes > 50
    assert outcome.picture.shape == image.shape


def test_lossless_files_are_exact_where_they_fit():
    image = photo_of(("cat", "dog"), 0)[0]
    for form in (webp(), jxl()):
        assert (StillSender(form, image, image, None).send(2 * image.nbytes).picture == image).all()


def test_blurring_keeps_a_masked_object_as_it_is():
    image, masks = photo_of(("cat", "dog"), 0)
    mask = masks["cat"]
    kept = kept_share(mask.astype(np.float32))
    assert (kept[mask] == 1).all()
    assert kept[:, 60:].max() == 0
    blurred = blurred_background(image, mask.astype(np.float32))
    assert (blurred[mask] == image[mask]).all()
    assert blurred[:8, 60:].std() < 0.5 * image[:8, 60:].std()


def test_a_guess_is_blurred_less_than_a_mask():
    image, masks = photo_of(("cat", "dog"), 0)
    mask = masks["cat"].astype(np.float32)
    certain, guess = (blurred_background(image, relevance)[:8, 60:] for relevance in (mask, 0.9 * mask))
    assert certain.std() < guess.std() < image[:8, 60:].std()


def test_of_two_blurs_the_object_gets_the_bytes(tools):
    photo, question = scene(tools)
    blur, plain = (CODECS[name].prepare for name in ("avif-blur", "avif"))
    oracle = Relevance(question.mask.astype(np.float32), present=True)
    errors = [
        mean_squared_error(photo.image, prepare(photo, oracle).send(1500).picture, question.mask)
        for prepare in (blur, plain)
    ]
    assert errors[0] < errors[1] / 2


def test_where_nothing_was_found_nothing_is_blurred(tools):
    photo, _ = scene(tools)
    nothing = Relevance(np.full((HEIGHT, WIDTH), 0.01, np.float32), present=False)
    one, other = (CODECS[name].prepare(photo, nothing).send(1500) for name in ("jpeg-blur", "jpeg"))
    assert (one.picture == other.picture).all()


# ---- our own path --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["rate-distortion", "greedy", "vit-sc"])
def test_our_path_stays_within_the_budget(tools, strategy):
    photo, question = scene(tools)
    sender = PatchSender(photo, Relevance(question.mask.astype(np.float32), present=True), "ladder", strategy)
    outcome = sender.send(1000)
    assert outcome.fits
    assert 900 < outcome.wire_bytes <= 1000
    assert outcome.levels.shape == (HEIGHT // 8, WIDTH // 8)
    inside, outside = outcome.levels[2:5, 1:4].mean(), outcome.levels[:, 6:].mean()
    assert inside > outside


def test_our_path_is_exact_given_enough_bytes(tools):
    photo, question = scene(tools)
    relevance = Relevance(question.mask.astype(np.float32), present=True)
    outcome = PatchSender(photo, relevance, "ladder", "greedy").send(40_000)
    assert (outcome.picture == photo.image).all()


def test_where_the_headers_do_not_fit_nothing_is_sent(tools):
    photo, question = scene(tools)
    outcome = PatchSender(photo, Relevance(question.mask.astype(np.float32), present=True), "ladder", "greedy").send(20)
    assert (outcome.wire_bytes, outcome.fits) == (0, False)
    assert np.ptp(outcome.picture) == 0


@pytest.mark.parametrize("name", ["entropy", "entropy-1200"])
def test_the_entropy_codec_goes_the_same_way(tools, name):
    photo, question = scene(tools)
    sender = CODECS[name].prepare(photo, Relevance(question.mask.astype(np.float32), present=True))
    outcome = sender.send(1500)
    assert outcome.fits
    assert 1200 < outcome.wire_bytes <= 1500
    assert outcome.level_count == 8
    assert outcome.levels[2:5, 1:4].min() > outcome.levels[:, 6:].mean()
    packets = {"entropy": 2, "entropy-1200": 3}[name]
    assert outcome.setting == f"{packets} packets"


# ---- systems -------------------------------------------------------------------------------------


def test_names_of_systems():
    systems = parse_systems(" embedded:ladder, ladder,oracle:avif-blur,avif ,query-free:vit-sc")
    assert [system.name for system in systems] == ["ladder", "oracle:avif-blur", "avif", "query-free:vit-sc"]
    assert [system.extractor for system in systems] == ["embedded", None, None, "embedded"]
    assert len(parse_systems(DEFAULT_SYSTEMS)) == len(DEFAULT_SYSTEMS.split(","))
    assert all(name in known() for name in CODECS)


@pytest.mark.parametrize("text", ["oracle", "ladders", "nobody:ladder", ":ladder", "oracle:avif", "", ",,"])
def test_unknown_systems_are_refused(text):
    with pytest.raises(InvalidInputError, match="--systems"):
        parse_systems(text)


# ---- the run -------------------------------------------------------------------------------------

ALL = "ladder,oracle:ladder,query-free:ladder,wrong-query:ladder,greedy,vit-sc,avif,jpeg,oracle:jpeg-blur,webp-blur"


def test_a_run_over_everything(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, systems=parse_systems(ALL), budgets=(2.0, 15.0, 60.0))
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert [row["system"] for row in written["rows"]] == [name for name in ALL.split(",") for _ in range(3)]
    assert [row["budget_percent"] for row in written["rows"][:3]] == [2, 15, 60]
    assert len(written["images"]) == 3 * 30
    for image in written["images"]:
        assert image["budget_bytes"] == int(WIDTH * HEIGHT * 3 * image["budget_percent"] / 100)
        assert image["wire_bytes"] <= image["budget_bytes"] or not image["fits"]
    rows = {(row["system"], row["budget_percent"]): row for row in written["rows"]}
    assert rows["oracle:ladder", 15]["masked_psnr_db"] > rows["wrong-query:ladder", 15]["masked_psnr_db"] + 1
    assert rows["oracle:jpeg-blur", 15]["masked_psnr_db"] > rows["jpeg", 15]["masked_psnr_db"]
    assert rows["jpeg", 60]["psnr_db"] > rows["jpeg", 15]["psnr_db"]
    assert rows["jpeg", 2]["fitting"] < rows["jpeg", 2]["queries"] == 3
    assert notes == []


def test_rows_are_means_over_the_photos(experiment, tools, tmp_path, notes):
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    for row in report["rows"]:
        of_row = [
            image
            for image in report["images"]
            if (image["system"], image["budget_percent"]) == (row["system"], row["budget_percent"])
        ]
        assert len(of_row) == row["queries"] == 3
        for name in ("masked_psnr_db", "masked_mse", "psnr_db", "ssim", "wire_bytes"):
            assert row[name] == pytest.approx(np.mean([image[name] for image in of_row]), abs=1e-5)
        assert row["clip_score"] is None


def test_singles_ask_for_each_object_with_its_own_mask(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, queries="singles", systems=parse_systems("oracle:greedy,wrong-query:greedy"))
    images = evaluate(experiment, tools, tmp_path / "r.json", notes.append)["images"]
    assert [image["query"] for image in images[::4]] == ["cat", "dog", "kite", "dog", "cat"]
    better = [one["masked_mse"] < other["masked_mse"] for one, other in zip(images[::4], images[2::4], strict=True)]
    assert all(better)
    assert set(tools.extractors["embedded"].asked) == {"kite", "dog"}


def timeless(report):
    images = [{name: value for name, value in image.items() if not name.endswith("_s")} for image in report["images"]]
    rows = [{name: value for name, value in row.items() if not name.endswith("_s")} for row in report["rows"]]
    return images, rows


def test_a_finished_run_is_only_added_to(experiment, tools, tmp_path, notes, monkeypatch):
    path = tmp_path / "r.json"
    first = evaluate(experiment, tools, path, notes.append)
    lines = len((tmp_path / f"r.json{PARTIAL_SUFFIX}").read_text().splitlines())
    assert lines == 1 + len(first["images"])
    monkeypatch.setattr("evaluation.transmission.run.measured", None)
    assert timeless(evaluate(experiment, tools, path, notes.append)) == timeless(first)
    monkeypatch.undo()
    tools.extractors["embedded"] = ByColour()
    more = replace(experiment, systems=parse_systems("jpeg,ladder,oracle:ladder"), budgets=(10.0, 20.0, 30.0))
    added = evaluate(more, tools, path, notes.append)
    assert [row["system"] for row in added["rows"]] == ["jpeg"] * 3 + ["ladder"] * 3 + ["oracle:ladder"] * 3
    new = len((tmp_path / f"r.json{PARTIAL_SUFFIX}").read_text().splitlines()) - lines
    assert new == 3 * (9 - 4)
    anew = evaluate(more, tools, tmp_path / "s.json", notes.append)
    assert timeless(added) == timeless(anew)


def test_an_interrupted_run_goes_on(experiment, tools, tmp_path, notes):
    class Interrupts(ByColour):
        def __call__(self, image, query):
            if "kite" in query:
                raise KeyboardInterrupt
            return super().__call__(image, query)

    path = tmp_path / "r.json"
    tools.extractors["embedded"] = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        evaluate(experiment, tools, path, notes.append)
    assert not path.exists()
    assert "4 figures are kept" in notes[0]
    partial = tmp_path / f"r.json{PARTIAL_SUFFIX}"
    partial.write_bytes(partial.read_bytes()[:-30])
    path.write_text('{"rows": [{"sys')
    tools.extractors["embedded"] = second = ByColour()
    report = evaluate(experiment, tools, path, notes.append)
    assert "cat and dog" not in second.asked
    assert any("half-written" in note for note in notes)
    assert any("cut off" in note for note in notes)
    assert timeless(report) == timeless(evaluate(experiment, tools, tmp_path / "s.json", notes.append))


def test_other_settings_are_not_mixed_in(experiment, tools, tmp_path, notes):
    path = tmp_path / "r.json"
    evaluate(experiment, tools, path, notes.append)
    other = replace(experiment, settings=replace(SETTINGS, avif_speed=9))
    with pytest.raises(InvalidInputError, match=r"avif_speed.*--restart"):
        evaluate(other, tools, path, notes.append)
    evaluate(other, tools, path, notes.append, restart=True)


def test_photos_that_come_later_add_to_a_run(experiment, tools, tmp_path, notes):
    evaluate(replace(experiment, photos=1), tools, tmp_path / "r.json", notes.append)
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert len(report["images"]) == 12
    assert "4 of 12 figures" in notes[0]


def test_an_empty_mask_is_left_out_with_a_note(experiment, folder, tools, tmp_path, notes):
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "masks/p1.kite.png")
    report = evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert {image["image"] for image in report["images"]} == {"p0", "p2"}
    assert "p1" in notes[0]


def test_a_wrong_query_needs_other_objects(tmp_path, tools, notes):
    dataset = open_dataset(make_dataset(tmp_path / "alike", (("cat",), ("cat", "dog"))))
    systems = parse_systems("wrong-query:ladder")
    experiment = Experiment(dataset, 2, "pairs", systems, (10.0,), SETTINGS)
    with pytest.raises(InvalidInputError, match="wrong-query"):
        evaluate(experiment, tools, tmp_path / "r.json", notes.append)


@PATIENT
def test_processes_give_the_same_figures(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, systems=parse_systems("oracle:ladder,jpeg"))
    one = evaluate(experiment, tools, tmp_path / "one.json", notes.append)
    seen = []
    two = evaluate(experiment, tools, tmp_path / "two.json", notes.append, lambda *at: seen.append(at), jobs=2)
    assert timeless(one) == timeless(two)
    assert seen[-1] == (3, 3)


def test_a_bad_photo_ends_the_run_and_keeps_the_rest(experiment, folder, tools, tmp_path, notes):
    (folder / "images/p2.png").write_bytes(b"nothing")
    experiment = replace(experiment, systems=parse_systems("jpeg"))
    with pytest.raises(InvalidInputError, match=r"p2\.png"):
        evaluate(experiment, tools, tmp_path / "r.json", notes.append)
    assert "4 figures are kept" in notes[-1]


# ---- report and figures --------------------------------------------------------------------------


def test_tables_mark_what_did_not_fit(experiment, tools, tmp_path, notes):
    experiment = replace(experiment, budgets=(2.0, 30.0))
    tables = markdown(evaluate(experiment, tools, tmp_path / "r.json", notes.append)["rows"])
    assert "| system | 2 % | 30 % |" in tables
    row = next(line for line in tables.splitlines() if line.startswith("| jpeg"))
    assert [cell.strip().endswith("*") for cell in row.split("|")[2:4]] == [True, False]


def test_figures_of_a_run(experiment, tools, tmp_path, notes):
    rows = evaluate(experiment, tools, tmp_path / "r.json", notes.append)["rows"]
    curves = draw_curves(rows, tmp_path)
    assert {path.name for path in curves} == {"masked_psnr_db.png", "masked_mse.png", "psnr_db.png", "ssim.png"}
    strips = draw_strips(experiment, tools, 2, 10.0, tmp_path)
    assert [path.name for path in strips] == ["strip_p0.png", "strip_p1.png"]
    for path in (*curves, *strips):
        with Image.open(path) as figure:
            assert min(figure.size) > 250
            assert len(figure.convert("RGB").getcolors(figure.width * figure.height)) > 20


def test_levels_beyond_the_ladders_have_colours_too(tools, tmp_path):
    photo, question = scene(tools)
    (system,) = parse_systems("ladder")
    levels = np.arange(HEIGHT * WIDTH // 64, dtype=np.uint8).reshape(HEIGHT // 8, -1)
    outcome = Outcome(photo.image, 5, fits=True, setting="", encode_s=0.0, levels=levels, level_count=96)
    draw_strip(Strip("s", photo, question, 1.0, 9, None, ((system, outcome),)), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as figure:
        assert figure.width > 900


def test_means_over_decibels_count_exact_photos_at_the_cap():
    record = {"system": "a", "budget_percent": 1.0, "fits": True, "exact": False, "masked_exact": True, "masked_mse": 0}
    empty = dict.fromkeys(("ssim", "relevance_l1", "clip_score", "plan_s"))
    sizes = {"wire_bytes": 3, "budget_bytes": 4, "encode_s": 0.5, "psnr_db": 30.0}
    records = [{**record, **empty, **sizes, "masked_psnr_db": value} for value in (CAP_DB, 40.0)]
    (row,) = rows_of(records)
    assert row["masked_psnr_db"] == 70
    assert row["masked_exact"] == 2
    assert row["ssim"] is None


def test_budgets_are_the_transmitters():
    assert budget_bytes(np.zeros((320, 480, 3), np.uint8), 2) == 9216


# ---- CLIP ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (folder / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny").state_dict(), folder / "tiny.pt")
    return folder / "tiny.pt"


@PATIENT
def test_the_clip_score_is_a_cosine_of_the_models_features(tiny_clip):
    scorer = ClipScorer.load("tiny", tiny_clip)
    image = photo_of(("cat",), 0)[0]
    found = scorer.score(image, "a cat")
    assert -1 <= found <= 1
    assert found == ClipScorer.load("tiny", tiny_clip).score(image, "a cat")
    assert found != scorer.score(image, "an aeroplane over the sea")
    with torch.inference_mode():
        seen = scorer.model.encode_image(scorer.preprocess(Image.fromarray(image))[None])[0]
        read = scorer.model.encode_text(scorer.tokenize(["a cat"]))[0]
    assert found == pytest.approx(float(seen @ read / seen.norm() / read.norm()), abs=1e-5)


@PATIENT
def test_clip_weights_that_do_not_fit_are_refused(tiny_clip, tmp_path):
    with pytest.raises(InvalidInputError, match="--clip-model"):
        ClipScorer.load("no-such-model", tiny_clip)
    with pytest.raises(InvalidInputError, match="--clip-weights"):
        ClipScorer.load("tiny", tmp_path / "absent.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(InvalidInputError, match="does not load"):
        ClipScorer.load("tiny", tmp_path / "junk.pt")


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def mmsc(folder, tmp_path, extractor, capfd):
    def run(*arguments, data=folder):
        code = cli.run(["evaluate", "transmission", str(data), "--json", str(tmp_path / "r.json"), *arguments])
        output = capfd.readouterr()
        return code, output.out, output.err.splitlines()

    return run


QUICK = ("--systems", "ladder,jpeg", "--budgets", "30,10", "--avif-speed", "10")


@PATIENT
def test_the_command(mmsc, tmp_path, tiny_clip):
    figures = tmp_path / "figures"
    clip = ("--clip-model", "tiny", "--clip-weights", str(tiny_clip))
    code, out, errors = mmsc(*QUICK, *clip, "--limit", "2", "--figures", str(figures), "--strips", "1")
    assert (code, errors) == (0, [])
    assert out.count("| system | 10 % | 30 % |") == 2
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["images"]) == 8
    assert all(-1 <= row["clip_score"] <= 1 and row["relevance_l1"] >= 0 for row in report["rows"])
    assert report["settings"]["clip_model"] == "tiny"
    assert set(report["settings"]["weights"]) >= {"clip", "ladder.safetensors"}
    assert {"clip_score.png", "relevance_l1.png", "strip_p0.png"} <= {path.name for path in figures.iterdir()}
    assert mmsc(*QUICK, *clip, "--limit", "2")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--systems", "magic"], "unknown system 'magic'; there are:"),
        (["--systems", "oracle:avif"], "takes no relevance"),
        (["--budgets", "1,x"], "--budgets"),
        (["--budgets", "0"], "--budgets"),
        (["--budgets", "inf"], "--budgets"),
        (["--judge", "jury"], "--judge"),
        (["--weights", "embedded"], "--weights"),
        (["--clip-weights", "absent.pt"], "absent.pt"),
        (["--annotations", "absent.json"], "absent.json"),
        (["--queries", "triples"], "triples"),
        (["--limit", "0"], "limit"),
        (["--jobs", "0"], "jobs"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(mmsc, tmp_path, arguments, said):
    code, out, errors = mmsc(*QUICK, *arguments)
    assert (code, out, len(errors)) == (2, "", 1)
    assert said in errors[0]
    assert not (tmp_path / "r.json").exists()


def test_a_wrong_folder_is_named(mmsc, tmp_path):
    code, _, errors = mmsc(*QUICK, data=tmp_path / "nowhere")
    assert (code, len(errors)) == (2, 1)
    assert "nowhere" in errors[0]


def test_a_damaged_photo_is_named_and_the_rest_kept(mmsc, folder, tmp_path):
    whole = (folder / "images/p1.png").read_bytes()
    (folder / "images/p1.png").write_bytes(whole[:100])
    code, _, errors = mmsc(*QUICK)
    assert code == 2
    assert "4 figures are kept" in errors[0]
    assert "p1.png" in errors[1]
    (folder / "images/p1.png").write_bytes(whole)
    code, _, errors = mmsc(*QUICK)
    assert code == 0
    assert "4 of 12 figures are there already" in errors[0]


def test_a_half_written_result_file_is_named_and_written_anew(mmsc, tmp_path):
    assert mmsc(*QUICK, "--limit", "1")[0] == 0
    path = tmp_path / "r.json"
    whole = path.read_text()
    path.write_text(whole[:200])
    code, _, errors = mmsc(*QUICK, "--limit", "1")
    assert code == 0
    assert "r.json is half-written" in errors[0]
    assert path.read_text() == whole


def test_a_foreign_file_is_not_overwritten(mmsc, tmp_path):
    (tmp_path / "r.json").write_text('{"my": "diary"}')
    for more in ([], ["--restart"]):
        code, _, errors = mmsc(*QUICK, *more)
        assert (code, len(errors)) == (2, 1)
        assert (tmp_path / "r.json").read_text() == '{"my": "diary"}'
