"""MAFT+'s short way of inference, against the whole graph."""

import pytest
import torch
from maft_plus_small import SMALL_BASE, SMALL_LARGE, single_thread, small_case, small_model
from torch.nn import functional

from shared.errors import InvalidInputError
from tests.make_maft_numbers import SYNONYMS, inputs, sine_model
from transmitter.relevance.maft_plus import kernels
from transmitter.relevance.maft_plus.deformable import reference_points, sample_levels
from transmitter.relevance.maft_plus.inference import MaftInference
from transmitter.relevance.maft_plus.kernels import sample
from transmitter.relevance.maft_plus.text_tower import encode_prompts, prompt_tree


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


# ---- the short way -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL_LARGE, SMALL_BASE])
@pytest.mark.parametrize("size", [(64, 96), (32, 32), (160, 64)])
def test_the_short_way_gives_what_the_whole_graph_gives(config, size):
    model, images, vocabulary = small_case(config, size)
    whole = model(images, vocabulary)
    seen = MaftInference(model).look(images)
    torch.testing.assert_close(seen.masks, whole.predictions[-1].mask_logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(seen.visual, whole.vectors, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(MaftInference(model).adapt(vocabulary.rows, seen), whole.texts, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_short_way_wraps_its_levels_round():
    model, (images, texts) = sine_model(), inputs()
    whole = model(images, model.vocabulary(texts, SYNONYMS))
    seen = MaftInference(model).look(images)
    torch.testing.assert_close(seen.masks, whole.predictions[-1].mask_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.visual, whole.vectors, atol=1e-5, rtol=1e-4)


def test_the_short_way_refuses_what_is_not_padded():
    short = MaftInference(small_model())
    for shape in ((1, 3, 60, 96), (3, 64, 96), (1, 1, 64, 96)):
        with pytest.raises(InvalidInputError, match="images"):
            short.look(torch.zeros(shape))


def test_the_compiler_takes_the_short_way_as_one_graph():
    _, images, _ = small_case()
    short = MaftInference(small_model(), compiled=True)
    assert short._compiled
    traced = torch.compile(short._look, backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        found = traced(images)
    torch.testing.assert_close(found.masks, MaftInference(small_model()).look(images).masks)


def test_less_precision_moves_little():
    _, images, _ = small_case()
    exact, rough = MaftInference(small_model()), MaftInference(small_model(), precision="bf16")
    one, other = exact.look(images), rough.look(images)
    assert (one.masks - other.masks).abs().mean() < 0.05 * one.masks.abs().mean()
    tokens = torch.tensor([[62, 5, 7, 63, 0, 0], [62, 5, 63, 0, 0, 0]])
    similar = functional.cosine_similarity(exact.encode_text(tokens), rough.encode_text(tokens))
    assert similar.min() > 0.999
    assert similar.min() < 1


@torch.no_grad()
@pytest.mark.parametrize("reach", [0.5, 3.0, 40.0])
def test_points_as_rows_of_a_table_equal_points_read_from_maps(reach):
    """Inside, at the edges, and far outside, where everything is 0."""
    torch.manual_seed(1)
    sizes, heads, channels = ((2, 3), (4, 6), (8, 12)), 2, 4
    tokens = sum(rows * columns for rows, columns in sizes)
    values = torch.randn(2, tokens, heads, channels)
    offsets = torch.randn(2, tokens, heads, 3, 4, 2) * reach
    # Some exactly on places, and on the borders between them.
    offsets[:, ::3] = offsets[:, ::3].round()
    weights = torch.rand(2, tokens, heads, 3, 4)
    reference = reference_points(sizes)
    extent = torch.tensor([(columns, rows) for rows, columns in sizes], dtype=torch.float32)[:, None]
    expected = sample_levels(values, reference[:, None, None, None] + offsets / extent, weights, sizes)
    torch.testing.assert_close(sample(values, reference, offsets, weights, sizes), expected, atol=2e-5, rtol=1e-4)
    with torch.enable_grad():
        assert torch.equal(sample(values, reference, offsets, weights, sizes), expected)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_linear_layers_are_the_same_with_and_without_onednn(monkeypatch, activation):
    first, second = torch.nn.Linear(8, 12), torch.nn.Linear(12, 8, bias=False)
    x = torch.randn(2, 700, 8)
    fused = kernels.linear(first, x, activation), kernels.perceptron(first, second, x, activation)
    monkeypatch.setattr(kernels, "_FUSED", frozenset())
    monkeypatch.setattr(kernels, "_VECTORS_AT_ONCE", 10_000)
    plain = kernels.linear(first, x, activation), kernels.perceptron(first, second, x, activation)
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)


# ---- prompts -------------------------------------------------------------------------------------


PROMPTS = torch.tensor(
    [
        [62, 1, 2, 3, 63, 0, 0, 0],
        [62, 1, 2, 4, 5, 6, 7, 63],
        [62, 1, 2, 3, 9, 63, 0, 0],
        [62, 63, 0, 0, 0, 0, 0, 0],
        [62, 1, 2, 3, 63, 5, 5, 5],
    ]
)


def test_prompts_that_begin_alike_share_their_beginning():
    tree = prompt_tree(PROMPTS)
    assert len(tree.tokens) == 5 + 5 + 2 + 1
    assert tree.ends[0] == tree.ends[4]
    assert tree.depths[tree.ends].tolist() == [4, 7, 5, 1, 4]
    # The end of the third prompt sees its own way and nothing else.
    seen = tree.tokens[tree.visible[tree.ends[2]]]
    assert seen.tolist() == [62, 1, 2, 3, 9, 63]


@torch.no_grad()
def test_the_tree_gives_what_open_clip_gives():
    clip = small_model().backbone.clip_model
    tokens = functional.pad(PROMPTS, (0, 77 - PROMPTS.shape[1]))
    torch.testing.assert_close(encode_prompts(clip, tokens), clip.encode_text(tokens), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_many_prompts_are_several_trees_of_several_blocks():
    clip = small_model().backbone.clip_model
    generator = torch.Generator().manual_seed(3)
    tokens = torch.zeros(300, 77, dtype=torch.int64)
    tokens[:, 0] = 62
    tokens[:, 1:6] = torch.randint(1, 60, (300, 5), generator=generator)
    tokens[:, 6] = 63
    torch.testing.assert_close(encode_prompts(clip, tokens), clip.encode_text(tokens), atol=1e-5, rtol=1e-5)
