"""MAFT+ as a graph: the official keys, and the original's traps."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from maft_plus_small import SMALL_LARGE, single_thread, small_case, small_model
from torch.nn import functional

from shared.errors import InvalidInputError, WeightsError
from tests.make_maft_numbers import EXPECTED, SYNONYMS, inputs, numbers_of, sine_model, tensors_of
from transmitter.relevance.maft_plus.classification import ContentTransfer, class_logits, pool_masks, scrambled
from transmitter.relevance.maft_plus.config import BASE, LARGE, config_of
from transmitter.relevance.maft_plus.mask_decoder import Memory
from transmitter.relevance.maft_plus.model import PIXEL_MEAN, PIXEL_STD, MaftPlus, normalise_and_pad


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


KEYS = Path(__file__).parent / "expected" / "maft_plus_keys.txt"
IGNORED = {"criterion.empty_weight"}


# ---- the official keys ---------------------------------------------------------------------------


def official_shapes(variant):
    """Key and shape of every tensor of a released variant."""
    section = KEYS.read_text().split(f"[{variant}]\n")[1].split("\n[")[0]
    lines = (line.split("\t") for line in section.splitlines())
    return {
        key: () if shape == "-" else tuple(map(int, shape.split())) for form, shape in lines for key in keys_of(form)
    }


def keys_of(form):
    """`a{,_t}.{0..2}.b` is six keys."""
    parts = re.split(r"(\{[^}]*\})", form)
    return ["".join(choice) for choice in itertools.product(*map(choices_of, parts))]


def choices_of(part):
    if not part.startswith("{"):
        return [part]
    bounds = part[1:-1].split("..")
    return part[1:-1].split(",") if len(bounds) == 1 else [str(n) for n in range(int(bounds[0]), int(bounds[1]) + 1)]


@pytest.mark.parametrize(("variant", "config", "count"), [("large", LARGE, 1397), ("base", BASE, 1297)])
def test_full_size_models_have_the_official_keys_and_shapes(variant, config, count):
    official = official_shapes(variant)
    assert len(official) == count
    with torch.device("meta"):
        model = MaftPlus(config, teacher=True)
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert ours == {key: shape for key, shape in official.items() if key not in IGNORED}
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(("variant", "config"), [("large", LARGE), ("base", BASE)])
def test_a_configuration_is_read_from_shapes(variant, config):
    assert config_of(official_shapes(variant)) == config


def test_a_configuration_names_the_tensor_that_is_absent():
    shapes = official_shapes("large")
    del shapes["sem_seg_head.predictor.query_feat.weight"]
    with pytest.raises(WeightsError, match=r"sem_seg_head\.predictor\.query_feat\.weight is absent"):
        config_of(shapes)


def test_a_model_without_a_teacher_has_no_keys_of_one():
    assert not [key for key in small_model().state_dict() if key.startswith("backbone_t")]


# ---- the whole graph -----------------------------------------------------------------------------


@torch.no_grad()
def test_the_graph_gives_the_numbers_that_it_gave_when_it_equalled_the_original():
    images, texts = inputs()
    model = sine_model()
    ours = tensors_of(model(images, model.vocabulary(texts, SYNONYMS)))
    expected = json.loads(EXPECTED.read_text())
    assert ours.keys() == expected.keys()
    for name, numbers in expected.items():
        assert numbers_of(ours[name]) == pytest.approx(numbers, abs=2e-4, rel=1e-5), name


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_one_another():
    model, images, vocabulary = small_case()
    both = tensors_of(model(images, vocabulary))
    for i in range(2):
        for name, alone in tensors_of(model(images[i : i + 1], vocabulary)).items():
            torch.testing.assert_close(both[name][i : i + 1], alone, atol=2e-5, rtol=1e-4, msg=name)


def test_gradients_reach_every_trained_part():
    model = small_model().requires_grad_(requires_grad=True)
    texts = functional.normalize(torch.randn(2, SMALL_LARGE.embed_dim), dim=-1)
    output = model(torch.randn(1, 3, 64, 96), model.vocabulary(texts, (1, 1)))
    total = sum(p.mask_logits.square().mean() + p.class_logits.square().mean() for p in output.predictions)
    (total + output.logits.square().mean()).backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    text_tower = ("token_embedding", "positional_embedding", "transformer.", "ln_final", "text_projection")
    assert all(name.startswith("backbone.clip_model.") and any(part in name for part in text_tower) for name in idle)


def test_masks_carry_no_gradient_into_what_they_block_or_pool():
    logits = torch.randn(1, 2, 4, 6, requires_grad=True)
    maps = torch.randn(1, 3, 4, 6, requires_grad=True)
    pool_masks(maps, logits).sum().backward()
    assert logits.grad is None
    assert maps.grad is not None


def test_stochastic_depth_is_there_in_training_only():
    model = small_model()
    images = torch.randn(4, 3, 64, 64)
    once, again = (model.backbone.features(images).res5 for _ in range(2))
    assert torch.equal(once, again)
    model.train()
    assert not torch.equal(*(model.backbone.features(images).res5 for _ in range(2)))


# ---- input ---------------------------------------------------------------------------------------


def test_pictures_are_normalised_then_padded_with_zeros():
    images = [torch.full((3, 33, 20), 200, dtype=torch.uint8), torch.zeros(3, 10, 70)]
    batch = normalise_and_pad(images)
    assert batch.shape == (2, 3, 64, 96)
    assert batch[0, :, 5, 5].tolist() == pytest.approx(
        [(200 - m) / s for m, s in zip(PIXEL_MEAN, PIXEL_STD, strict=True)]
    )
    assert not batch[0, :, 33:].any()
    assert not batch[0, :, :, 20:].any()
    assert not batch[1, :, 10:].any()
    assert batch[1, :, :10, :70].all()


@pytest.mark.parametrize("images", [[], [torch.zeros(10, 10, 3)], [torch.zeros(3, 0, 5)], [torch.zeros(3, 5)]])
def test_what_is_no_picture_is_refused(images):
    with pytest.raises(InvalidInputError):
        normalise_and_pad(images)


def test_synonyms_must_add_up():
    with pytest.raises(InvalidInputError, match="4 synonyms, but 3 texts"):
        small_model().vocabulary(torch.zeros(3, SMALL_LARGE.embed_dim), (2, 2))


# ---- the original's traps ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_transfer_sees_runs_of_memory_instead_of_places(layout):
    dense = torch.arange(2 * 8 * 3 * 5, dtype=torch.float32).view(2, 8, 3, 5)
    found = scrambled(dense.to(memory_format=layout))
    assert found.shape == (2, 3, 5, 8)
    # The first "place" is the first eight floats: one channel and a half of places, not eight channels of one place.
    assert found[0, 0, 0].tolist() == list(range(8))
    assert found[1, 2, 4].tolist() == [232, 233, 234, 235, 236, 237, 238, 239]
    assert not torch.equal(found, dense.permute(0, 2, 3, 1))


@torch.no_grad()
def test_wholly_blocked_queries_look_everywhere():
    decoder = small_model().sem_seg_head.predictor
    hidden = SMALL_LARGE.hidden
    x, memory = torch.randn(1, 6, hidden), Memory(torch.randn(1, 12, hidden), torch.randn(1, 12, hidden))
    cross = decoder.transformer_cross_attention_layers[0]
    embed = decoder.query_embed.weight
    blocked = torch.zeros(1, 6, 12, dtype=torch.bool)
    blocked[0, 2], blocked[0, 4, 3:] = True, True
    seen = []
    handle = cross.register_forward_hook(lambda module, inputs, output: seen.append(output))
    decoder.layer(0, x, memory, blocked)
    handle.remove()
    free, kept = cross(x, embed, memory, torch.zeros_like(blocked)), seen[0]
    torch.testing.assert_close(kept[0, [0, 1, 2, 3, 5]], free[0, [0, 1, 2, 3, 5]])
    assert (kept[0, 4] - free[0, 4]).abs().max() > 1e-3


def test_masks_are_pooled_as_yes_or_no():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    logits = torch.tensor([[[[0.01, -9.0], [9.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert pool_masks(maps, logits)[0, :, 0].tolist() == pytest.approx([2.0, 0.0])


def test_class_logits_take_the_best_synonym_and_leave_texts_their_length():
    vectors = torch.tensor([[[3.0, 0.0]]])
    texts = torch.tensor([[0.5, 0.0], [2.0, 1.0], [0.0, 7.0], [-1.0, 0.0]])
    assert class_logits(vectors, texts, (1, 2), torch.tensor(10.0)).tolist() == [[[5.0, 20.0, -10.0]]]


def test_the_logit_scale_is_held_below_a_hundred():
    model = small_model()
    model.backbone.clip_model.logit_scale.fill_(9.0)
    assert float(model.backbone.logit_scale()) == 100.0


@torch.no_grad()
@pytest.mark.parametrize("panoptic", [False, True])
def test_the_norm_of_the_transfer_is_around_or_inside_the_residual(panoptic):
    config = type(SMALL_LARGE)(**{**vars(SMALL_LARGE), "panoptic": panoptic})
    transfer = ContentTransfer(config).eval()
    texts, tokens = torch.randn(3, config.embed_dim), torch.randn(2, config.embed_dim, 2, 3)
    moved = transfer.cross_atten.MLP(transfer.attend(texts.expand(2, -1, -1), tokens))
    norm = transfer.cross_atten.norm
    expected = texts + norm(moved) if panoptic else norm(texts + moved)
    torch.testing.assert_close(transfer(texts, tokens), expected)


@torch.no_grad()
def test_texts_are_adapted_each_by_itself():
    model, images, vocabulary = small_case()
    dense = model.backbone.features(images).res5
    together = model.adapt(vocabulary.rows, dense)
    torch.testing.assert_close(together[:, 1:2], model.adapt(vocabulary.rows[1:2], dense))
