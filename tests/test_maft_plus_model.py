"""MAFT+ as a graph: the official keys, the original's traps, and the short way of inference against the whole."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch.nn import functional

from evaluation.maft_golden.__main__ import main as golden_main
from evaluation.maft_golden.compare import difference
from evaluation.maft_golden.forward import forward_tensors
from evaluation.maft_golden.golden import Golden
from shared.errors import InvalidInputError, WeightsError
from tests.maft_plus_small import SMALL_BASE, SMALL_LARGE, small_model
from tests.make_maft_numbers import EXPECTED, SYNONYMS, inputs, numbers_of, sine_model, tensors_of
from transmitter.relevance.maft_plus import kernels
from transmitter.relevance.maft_plus.classification import ContentTransfer, class_logits, pool_masks, scrambled
from transmitter.relevance.maft_plus.config import BASE, LARGE, config_of
from transmitter.relevance.maft_plus.deformable import reference_points, sample_levels
from transmitter.relevance.maft_plus.inference import MaftInference
from transmitter.relevance.maft_plus.kernels import sample
from transmitter.relevance.maft_plus.mask_decoder import Memory
from transmitter.relevance.maft_plus.model import PIXEL_MEAN, PIXEL_STD, MaftPlus, normalise_and_pad
from transmitter.relevance.maft_plus.text_tower import encode_prompts, prompt_tree
from transmitter.relevance.prompts import ensemble

KEYS = Path(__file__).parent / "expected" / "maft_plus_keys.txt"
IGNORED = {"criterion.empty_weight"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the official keys ------------------------------------------------------


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


# ---- the whole graph --------------------------------------------------------


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


def small_case(config=SMALL_LARGE, size=(64, 96), seed=0):
    """A model, two pictures and a vocabulary of two classes with three synonyms."""
    model = small_model(config, seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, *size, generator=generator)
    texts = functional.normalize(torch.randn(3, config.embed_dim, generator=generator), dim=-1)
    return model, images, model.vocabulary(texts, (1, 2))


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


# ---- input ------------------------------------------------------------------


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


# ---- the original's traps ---------------------------------------------------


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


# ---- the short way ----------------------------------------------------------


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


# ---- prompts ----------------------------------------------------------------

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


# ---- the check against golden files -----------------------------------------


SETTINGS = {"heads": 8, "text_heads": 1, "panoptic": False, "outs": [[40, 50], [64, 64]]}


@pytest.fixture(scope="module")
def golden_tensors():
    """A file in the original's form, as our own model fills it in."""
    model = small_model()
    tokens = torch.zeros(28, 77, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1], tokens[:, 2] = 62, torch.arange(28), 63
    given = {
        "input.image0": torch.rand(3, 40, 50) * 255,
        "input.image1": torch.rand(3, 64, 60) * 255,
        "text.tokens": tokens,
        "query.tokens": tokens[:14],
        "text.num_templates": torch.tensor([2]),
        "query.t": ensemble(model.backbone.encode_text(tokens[:14]))[None],
    }
    state = {f"state_dict.{key}": value for key, value in model.state_dict().items()}
    tensors = state | given | forward_tensors(model, Golden(SETTINGS, {}, given))
    return {name: value.contiguous().clone() for name, value in tensors.items()}


def checked(tensors, folder):
    """Exit code and checks of a golden file with these tensors."""
    save_file(tensors, folder / "golden.safetensors", metadata={"config": json.dumps(SETTINGS)})
    arguments = [str(folder / "golden.safetensors"), "--json", str(folder / "out.json")]
    result = CliRunner().invoke(golden_main, arguments)
    return result.exit_code, json.loads((folder / "out.json").read_text())["checks"]


def test_the_golden_check_passes_its_own_numbers(golden_tensors, tmp_path):
    code, checks = checked(golden_tensors, tmp_path)
    assert code == 0, [check for check in checks if not check["ok"]]
    assert set(checks[0]) == {"name", "value", "unit", "bar", "ok"}


@pytest.mark.parametrize("name", ["V", "dec.pred1.attn_mask", "eq7.S_inf_raw", "pd.enc.layer0.msda"])
def test_the_golden_check_fails_on_one_number(golden_tensors, tmp_path, name):
    value = golden_tensors[name].clone()
    first = value.view(-1)[:1]
    first.copy_(1 - first if name.endswith("attn_mask") else first + 3e-4 + 3e-5 * first.abs())
    code, checks = checked(golden_tensors | {name: value}, tmp_path)
    missed = [check["name"] for check in checks if not check["ok"]]
    assert code == 1
    assert missed
    assert all(name in each for each in missed)


def test_the_golden_check_fails_on_a_tensor_that_we_do_not_compute(golden_tensors, tmp_path):
    code, checks = checked(golden_tensors | {"pd.unheard": torch.zeros(1)}, tmp_path)
    assert code == 1
    assert [check["name"] for check in checks if not check["ok"]] == ["pixel decoder: worst of 18, pd.unheard"]


def test_the_golden_check_says_what_is_no_golden_file(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign", metadata={"config": json.dumps(SETTINGS)})
    save_file({"a": torch.zeros(1)}, tmp_path / "unset", metadata={"config": "{}"})
    for name in ("text", "bare", "foreign", "unset"):
        result = CliRunner().invoke(golden_main, [str(tmp_path / name)])
        assert result.exit_code == 2, name
        assert isinstance(result.exception, SystemExit)


def test_numbers_that_are_none_are_out_of_tolerance():
    found = difference("x", torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0]), absolute=1e-4, relative=1e-5)
    assert found.excess == float("inf")
    assert difference("x", None, torch.zeros(1), absolute=1e-4, relative=1e-5).excess == float("inf")
