"""Queries to vectors, and scores to relevances between 0 and 1."""

import threading

import pytest
import torch
from torch.nn import functional

from transmitter.relevance import prompts
from transmitter.relevance.prompts import (
    ANYTHING,
    BACKGROUNDS,
    CONTRASTS,
    NEGATIVES,
    TEMPLATES,
    PhraseEncoder,
    ensemble,
    peak,
    phrase_of,
    prompts_of,
    relevancy,
    rivals,
)

_VILD = [
    "a photo of a cat.",
    "This is a photo of a cat",
    "There is a cat in the scene",
    "There is the cat in the scene",
    "a photo of a cat in the scene",
    "a photo of a small cat.",
    "a photo of a medium cat.",
    "a photo of a large cat.",
    "This is a photo of a small cat.",
    "This is a photo of a medium cat.",
    "This is a photo of a large cat.",
    "There is a small cat in the scene.",
    "There is a medium cat in the scene.",
    "There is a large cat in the scene.",
]


class _Tower:
    """Gives each prompt a vector of its own, and tells what it was asked."""

    def __init__(self, channels=8):
        self.asked, self.channels = [], channels

    def __call__(self, prompts):
        self.asked.append(list(prompts))
        seeds = [torch.Generator().manual_seed(sum(map(ord, prompt))) for prompt in prompts]
        return torch.stack([torch.randn(self.channels, generator=seed) * 5 for seed in seeds])


# ---- templates ------------------------------------------------------------------------------------


def test_the_templates_are_those_the_model_was_trained_with():
    assert prompts_of("cat") == _VILD
    assert len(TEMPLATES) == 14


@pytest.mark.parametrize("query", ["cat, dog", "a {} in {0}", "100 % {x!r:>9}", "猫"])
def test_a_query_goes_into_the_templates_as_it_is(query):
    assert phrase_of(query) == query
    assert prompts_of(query)[0] == f"a photo of a {query}."


def test_white_space_is_not_part_of_a_query_and_nothing_asks_for_anything():
    assert phrase_of("  red \n\t car ") == "red car"
    assert phrase_of(" \n ") == phrase_of("") == ANYTHING


def test_the_ensemble_weighs_templates_alike_whatever_their_length():
    features = torch.tensor([[3.0, 0.0], [0.0, 100.0]])
    assert torch.allclose(ensemble(features), torch.tensor([0.5, 0.5]).sqrt())
    many = torch.randn(5, 14, 6)
    assert torch.allclose(ensemble(many)[3], ensemble(many[3]))
    assert torch.allclose(ensemble(many).norm(dim=-1), torch.ones(5))


# ---- the encoder's memory -------------------------------------------------------------------------


def test_a_phrase_is_its_ensembled_prompts():
    tower = _Tower()
    vectors = PhraseEncoder(tower)(("cat", "dog"))
    assert torch.allclose(vectors[1], ensemble(_Tower()(prompts_of("dog"))))
    assert torch.allclose(vectors[0], ensemble(_Tower()(prompts_of("cat"))))


def test_the_tower_is_asked_once_about_all_new_phrases_and_never_about_known_ones():
    tower = _Tower()
    encoder = PhraseEncoder(tower)
    first = encoder(("cat", "dog", "cat"))
    assert [len(asked) for asked in tower.asked] == [28]
    again = encoder(("dog", "cup", "cat"))
    assert tower.asked[1:] == [prompts_of("cup")]
    assert torch.equal(again[0], first[1])
    assert torch.equal(again[2], first[0])
    assert torch.equal(first[0], first[2])


def test_what_was_not_asked_for_longest_is_forgotten():
    tower = _Tower()
    encoder = PhraseEncoder(tower, capacity=2)
    for phrase in ("a", "b", "a", "c", "a"):
        encoder((phrase,))
    assert [asked[0] for asked in tower.asked] == [prompts_of(phrase)[0] for phrase in "abc"]
    encoder(("b",))
    assert len(tower.asked) == 4
    assert len(encoder._vectors) == 2


def test_more_phrases_than_are_remembered_still_get_their_vectors():
    encoder = PhraseEncoder(_Tower(), capacity=1)
    assert torch.equal(encoder(("a", "b", "c")), PhraseEncoder(_Tower())(("a", "b", "c")))


def test_threads_may_share_an_encoder():
    encoder, expected = PhraseEncoder(_Tower(), capacity=3), PhraseEncoder(_Tower())
    wrong = []

    def ask(number):
        phrases = tuple(str((number + step) % 7) for step in range(3))
        wrong.extend(phrases for _ in range(20) if not torch.equal(encoder(phrases), expected(phrases)))

    for number in range(7):
        expected((str(number),))
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(encoder._vectors) <= 3


# ---- contrasts and relevancy ----------------------------------------------------------------------


def test_a_query_is_compared_with_what_it_is_not():
    rows = [[name for name, there in zip(CONTRASTS, row, strict=True) if there] for row in rivals(("cat", " Object "))]
    assert rows == [list(NEGATIVES), ["things", "stuff", "texture"]]
    assert [name for name, there in zip(CONTRASTS, rivals((" ",))[0], strict=True) if there] == list(BACKGROUNDS)


def test_relevancy_is_the_least_softmax_against_the_contrasts():
    scores, contrasts = torch.randn(2, 3, 4, 5), torch.randn(2, len(CONTRASTS), 4, 5)
    against = rivals(("cat", "stuff", ""))
    result = relevancy(scores, contrasts, 7.0, against)
    assert result.shape == scores.shape
    for query in range(3):
        pairs = [
            functional.softmax(7 * torch.stack([scores[:, query], contrasts[:, column]]), 0)[0]
            for column in range(len(CONTRASTS))
            if against[query, column]
        ]
        assert torch.allclose(result[:, query], torch.stack(pairs).amin(0), atol=1e-6)


def test_relevancy_stays_between_0_and_1_and_is_one_half_at_the_best_contrast():
    contrasts = torch.randn(1, len(CONTRASTS), 6)
    against = rivals(("cat",))
    best = contrasts[:, :4].amax(1, keepdim=True)
    assert torch.allclose(relevancy(best, contrasts, 100.0, against), torch.tensor(0.5))
    extreme = relevancy(torch.tensor([[[1e30, -1e30, 1, 0, -1, 0.5]]]), contrasts, torch.tensor(100.0), against)
    assert bool(((extreme >= 0) & (extreme <= 1)).all())
    steps = relevancy(torch.linspace(-1, 1, 6)[None, None], torch.zeros(1, len(CONTRASTS), 6), 10.0, against)
    assert bool((steps.diff() > 0).all())


def test_one_stray_place_is_no_find():
    stray = torch.zeros(2, 40, 40)
    stray[0, 3, 3] = 1
    stray[1, :3, :3] = 1
    assert (peak(stray) >= prompts.THRESHOLD).tolist() == [False, True]
    assert float(peak(torch.full((1, 1), 0.7))) == pytest.approx(0.7)
