"""Relevance from plain CLIPs: dense heads against plain references, edges, options, and weights read and refused."""

import pickle
import time

import numpy as np
import open_clip
import pytest
import torch
from hub_fakes import running_hub
from huggingface_hub import constants
from open_clip.pretrained import _PRETRAINED
from open_clip_small import CONFIGS, make_known, tiny
from safetensors.torch import save, save_file

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance import load_extractor
from transmitter.relevance.clip_text import encode_text, logit_scale
from transmitter.relevance.open_clip_dense import dense, extractor, vit, weights
from transmitter.relevance.open_clip_dense.extractor import OpenClipExtractor, Settings, load, parse_settings
from transmitter.relevance.open_clip_dense.refinement import to_pixels
from transmitter.relevance.open_clip_dense.weights import DEFAULT_MODEL, ModelChoice, hub_place, is_plain, load_clip
from transmitter.relevance.prompts import CONTRASTS, TEMPLATES

TAG = {"hf_hub": "someone/tiny/", "url": "", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "quick_gelu": True}


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch):
    """open_clip knows two small CLIPs, and a tag of the first."""
    make_known(monkeypatch)
    monkeypatch.setitem(_PRETRAINED, "tiny-vit", {"good": TAG, "nowhere": {"url": "", "hf_hub": ""}})


@pytest.fixture(scope="module", params=list(CONFIGS))
def named_clip(request):
    return request.param, tiny(request.param)


@pytest.fixture(scope="module")
def vit_clip():
    return tiny("tiny-vit")


@pytest.fixture(scope="module")
def convnext_clip():
    return tiny("tiny-convnext")


def picture(height=40, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def extractor_of(clip, name="tiny-vit", **settings):
    return OpenClipExtractor(clip, Settings(ModelChoice(name), **{"short_side": 64, **settings}))


# ---- ViT: neighbourhood attention -----------------------------------------------------------------


def slow_attention(block, tokens, grid, deviation):
    """NACLIP's attention of one picture, patch by patch and head by head."""
    state = {name: value.double().numpy() for name, value in block.state_dict().items()}
    centred = tokens - tokens.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * state["ln_1.weight"] + state["ln_1.bias"]
    width, heads = tokens.shape[1], block.attn.num_heads
    size, places = width // heads, [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    keys, values = (
        normed @ state["attn.in_proj_weight"][part * width :][:width].T
        + state["attn.in_proj_bias"][part * width :][:width]
        for part in (1, 2)
    )
    rows = []
    for patch, (y, x) in enumerate(places):
        heard = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            logits = keys[:, own] @ keys[1 + patch, own] / np.sqrt(size)
            for other, (v, u) in enumerate(places):
                logits[1 + other] += np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * deviation**2))
            raised = np.exp(logits - logits.max())
            heard.append(raised @ values[:, own] / raised.sum())
        rows.append(np.concatenate(heard) @ state["attn.out_proj.weight"].T + state["attn.out_proj.bias"])
    return np.array(rows)


@pytest.mark.parametrize("deviation", [0.7, 5.0])
def test_neighbourhood_attention_is_that_of_a_slow_loop(vit_clip, deviation):
    block = vit_clip.visual.transformer.resblocks[-1]
    tokens = torch.randn(2, 1 + 3 * 5, 24, generator=torch.Generator().manual_seed(3))
    found = vit.neighbour_attention(block, tokens, vit.neighbour_bias(3, 5, deviation))
    for one, expected in zip(found, tokens.double().numpy(), strict=True):
        np.testing.assert_allclose(one.numpy(), slow_attention(block, expected, (3, 5), deviation), atol=1e-5)


def test_the_bias_is_one_at_home_and_falls_with_the_distance():
    bias = vit.neighbour_bias(2, 3, 1.5)
    assert bias.shape == (6, 7)
    assert not bias[:, 0].any()
    np.testing.assert_allclose(bias[:, 1:].diagonal(), 1)
    np.testing.assert_allclose(bias[0, 1 + 5], np.exp(-(1 + 4) / (2 * 1.5**2)), rtol=1e-6)


def test_features_are_the_last_blocks_attention_normalised_and_projected(vit_clip):
    visual, pixels = vit_clip.visual, torch.randn(1, 3, 32, 32)
    before = visual.forward_intermediates(pixels, indices=[1], output_fmt="NLC", output_extra_tokens=True)
    tokens = torch.cat((before["image_intermediates_prefix"][0], before["image_intermediates"][0]), 1)
    torch.testing.assert_close(vit.tokens_before_last(visual, pixels), tokens, atol=1e-5, rtol=1e-5)
    attended = vit.neighbour_attention(visual.transformer.resblocks[-1], tokens, vit.neighbour_bias(4, 4, 5.0))
    expected = (visual.ln_post(attended) @ visual.proj)[0].T.reshape(1, 12, 4, 4)
    torch.testing.assert_close(dense.dense_head(visual)(pixels), expected, atol=1e-5, rtol=1e-5)


def test_position_embeddings_are_interpolated_between_the_same_corners(vit_clip):
    visual = vit_clip.visual
    torch.testing.assert_close(vit.positions(visual, (4, 4))[0], visual.positional_embedding)
    grown = vit.positions(visual, (6, 9))
    assert grown.shape == (1, 1 + 54, 24)
    torch.testing.assert_close(grown[0, 0], visual.positional_embedding[0])
    middle = grown[0, 1:].reshape(6, 9, 24).mean((0, 1))
    torch.testing.assert_close(middle, visual.positional_embedding[1:].mean(0), atol=0.1, rtol=0)


def test_without_positions_patches_of_a_constant_picture_are_alike(vit_clip):
    own = vit_clip.visual.positional_embedding
    kept = own.clone()
    try:
        own.zero_()
        features = dense.dense_head(vit_clip.visual)(torch.full((1, 3, 24, 40), 0.3))
    finally:
        own.copy_(kept)
    torch.testing.assert_close(features, features[:, :, :1, :1].expand_as(features), atol=1e-4, rtol=1e-4)


# ---- ConvNeXt: the visual head everywhere ---------------------------------------------------------


def test_at_one_location_the_dense_head_is_the_pooled_head(convnext_clip):
    pixels = torch.randn(2, 3, 32, 32)
    features = dense.dense_head(convnext_clip.visual)(pixels)
    assert features.shape == (2, 12, 1, 1)
    torch.testing.assert_close(features[:, :, 0, 0], convnext_clip.encode_image(pixels), atol=1e-5, rtol=1e-4)


def test_everywhere_it_is_the_pooled_head_of_that_location(convnext_clip):
    visual, pixels = convnext_clip.visual, torch.randn(2, 3, 64, 96)
    features, last = dense.dense_head(visual)(pixels), visual.trunk.forward_features(pixels)
    assert features.shape == (2, 12, 2, 3)
    for row, column in ((0, 0), (1, 0), (0, 2), (1, 2)):
        vector = last[1, :, row, column]
        normed = torch.nn.functional.layer_norm(
            vector, vector.shape, visual.trunk.head.norm.weight, visual.trunk.head.norm.bias, visual.trunk.head.norm.eps
        )
        torch.testing.assert_close(features[1, :, row, column], visual.head.proj.weight @ normed, atol=1e-5, rtol=1e-4)


def test_other_visual_halves_are_refused():
    with pytest.raises(InvalidInputError, match="plain ViTs and ConvNeXts, not Linear"):
        dense.dense_head(torch.nn.Linear(1, 1))


def test_gpus_may_compute_in_half_precision_and_cpus_do_not(vit_clip):
    seen = []
    head = dense.dense_head(vit_clip.visual)

    def spy(pixels):
        seen.append(torch.is_autocast_enabled("cpu"))
        return head(pixels)

    found = dense.unit_features(spy, torch.randn(1, 3, 16, 24), torch.float16)
    assert (seen, found.dtype) == ([False], torch.float32)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(1, 2, 3))


# ---- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((320, 480), (336, 512)),
        ((480, 320), (512, 336)),
        ((1, 1), (336, 336)),
        ((1, 4), (336, 1344)),
        ((1, 5000), (16, 1344)),
        ((333, 500), (336, 512)),
    ],
)
def test_the_short_side_is_scaled_and_sides_are_whole_patches(size, expected):
    assert dense.Scaling(336, 16, (0, 0, 0), (1, 1, 1)).size_of(*size) == expected


def test_pictures_are_rgb_normalised_as_asked_for():
    colour = np.array([255, 0, 128], np.uint8)
    scaling = dense.Scaling(8, 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pixels = scaling.to_input(np.broadcast_to(colour, (3, 5, 3)).copy())
    assert pixels.shape == (1, 3, 8, 16)
    np.testing.assert_allclose(
        pixels[0, :, 3, 5], (colour / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 13), (7, 300), (33, 31), (200, 21)])
def test_any_size_gives_a_map_of_that_size(named_clip, height, width):
    name, clip = named_clip
    for query in ("cat", ""):
        found = extractor_of(clip, name)(picture(height, width), query)
        assert found.map.shape == (height, width)
        assert found.map.dtype == np.float32
        assert np.isfinite(found.map).all()
        assert 0 <= found.map.min() <= found.map.max() <= 1


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
def test_other_arrays_are_refused(vit_clip, image):
    with pytest.raises(InvalidInputError, match="image"):
        extractor_of(vit_clip)(image, "")


# ---- edges ----------------------------------------------------------------------------------------


def scene(seed, texture=0.0, contrast=0.3, height=160, width=240):
    """A photo-like picture of shapes on a shaded background, and which pixels the shapes cover."""
    random = np.random.default_rng(seed)
    down, right = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(3):
        y, x, radius = random.uniform(0.2, 0.8) * height, random.uniform(0.2, 0.8) * width, random.uniform(15, 45)
        if random.random() < 0.5:
            mask |= (down - y) ** 2 + (right - x) ** 2 < radius**2
        else:
            mask |= (np.abs(down - y) < radius) & (np.abs(right - x) < radius / 2)
    back = random.uniform(0.2, 0.5, 3) + 0.1 * (right / width)[..., None]
    colours = np.where(mask[..., None], back + contrast * random.choice([-1, 1], 3), back)
    colours += random.normal(0, 0.02, colours.shape) + texture * random.normal(0, 1, (height, width, 1))
    return np.clip(colours * 255, 0, 255).astype(np.uint8), mask


def coarse_of(mask, seed, noise=0.1):
    """What a CLIP with cells of 16 pixels could say of a mask: its share of each cell, and noise."""
    share = torch.nn.functional.avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], 16)
    told = 0.1 + 0.8 * share + noise * torch.randn(share.shape, generator=torch.Generator().manual_seed(seed))
    return told.clamp(0, 1)


def quality(found, mask):
    """Overlap (intersection over union) at 1/2, and the share of pixels near the outline on the right side of it."""
    said = found[0].numpy() > 0.5
    distance = torch.nn.functional.max_pool2d(torch.from_numpy(np.stack([mask, ~mask]).astype(np.float32)), 13, 1, 6)
    outline = distance.numpy().all(0)
    return (said & mask).sum() / (said | mask).sum(), (said == mask)[outline].mean()


def test_refined_maps_follow_edges_better_than_bilinear_ones():
    gains = []
    for seed in range(12):
        image, mask = scene(seed)
        coarse = coarse_of(mask, seed)
        plain, refined = (quality(to_pixels(coarse, image, refine=refine), mask) for refine in (False, True))
        gains.append(np.subtract(refined, plain))
    overlap, outline = np.mean(gains, axis=0)
    assert overlap > 0.08
    assert outline > 0.08
    assert np.min(gains) > 0


def test_the_guiding_edges_are_the_pictures_own():
    """Another picture's edges do not help: the gain above is none of blurring."""
    image, mask = scene(0)
    other, _ = scene(7)
    coarse = coarse_of(mask, 0)
    own, foreign = (quality(to_pixels(coarse, each), mask)[1] for each in (image, other))
    assert own > foreign + 0.03


@pytest.mark.parametrize("texture", [0.05, 0.3])
def test_texture_and_pictures_without_edges_do_no_harm(texture):
    losses = []
    for seed in range(8):
        image, mask = scene(seed, texture=texture, contrast=0)
        coarse = coarse_of(mask, seed, noise=0.05)
        plain, refined = (quality(to_pixels(coarse, image, refine=refine), mask) for refine in (False, True))
        losses.append(np.subtract(plain, refined))
    assert np.mean(losses) < 0.001
    assert np.max(losses) < 0.006


def test_constant_maps_stay_and_large_pictures_are_filtered_more_coarsely():
    image, mask = scene(3, height=160, width=1312)
    flat = to_pixels(torch.full((2, 5, 41), 0.7), image)
    torch.testing.assert_close(flat, torch.full((2, *mask.shape), 0.7), atol=1e-3, rtol=0)
    coarse = torch.nn.functional.avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], 32)
    plain, refined = (quality(to_pixels(coarse, image, refine=refine), mask) for refine in (False, True))
    assert refined[1] > plain[1]


# ---- from scores to maps --------------------------------------------------------------------------


@pytest.fixture
def planted(vit_clip, monkeypatch):
    """An extractor whose cells and phrases have known cosines: 4 columns that fit cat, dog, nothing and contrasts."""
    found = extractor_of(vit_clip, refine=False)
    axes = {"cat": 0, "dog": 1, "unicorn": 2, "main subject": 0, **dict.fromkeys(CONTRASTS, 3)}
    cells = torch.eye(4)[:, None, :].repeat(1, 2, 1)
    cells[:, :, 2] = 0
    monkeypatch.setattr(found, "features", lambda _: cells)
    monkeypatch.setattr(found, "_phrases", lambda phrases: torch.eye(4)[[axes[phrase] for phrase in phrases]])
    return lambda query: found(np.zeros((2, 4, 3), np.uint8), query)


def test_a_phrase_is_found_where_it_fits_better_than_what_fits_anything(planted):
    found = planted("the cat")
    assert found.present
    assert found.map[0, 0] > 0.9
    np.testing.assert_allclose(found.map[:, 1:3], 0.5, atol=1e-6)
    assert found.map[0, 3] < 0.1


@pytest.mark.parametrize("query", ["cat and dog", "dog, cat", "a dog or the cat"])
def test_of_several_phrases_the_best_counts(planted, query):
    np.testing.assert_array_equal(planted(query).map, np.maximum(planted("cat").map, planted("dog").map))


def test_what_is_not_there_is_low_and_adds_nothing(planted, vit_clip, monkeypatch):
    scale = float(logit_scale(vit_clip))
    assert scale > 5
    sought = extractor_of(vit_clip, refine=False)
    cells = torch.zeros(2, 2, 4)
    cells[1] = 1  # only contrasts fit, everywhere
    monkeypatch.setattr(sought, "features", lambda _: cells)
    monkeypatch.setattr(
        sought, "_phrases", lambda phrases: torch.eye(2)[[int(phrase in CONTRASTS) for phrase in phrases]]
    )
    found = sought(np.zeros((2, 4, 3), np.uint8), "unicorn")
    assert not found.present
    assert found.map.max() < 1 / (1 + np.exp(scale)) + 1e-6


def test_the_empty_query_asks_for_the_main_subject_and_is_always_present(planted):
    for query in ("", " ", "?!"):
        found = planted(query)
        assert found.present
        assert found.map[0, 0] == found.map.max() > 0.9


def test_pictures_need_not_be_writable(vit_clip):
    image = picture()
    image.flags.writeable = False
    np.testing.assert_array_equal(
        extractor_of(vit_clip)(image, "cat").map, extractor_of(vit_clip)(picture(), "cat").map
    )


def test_one_look_serves_all_queries(vit_clip, monkeypatch):
    found = extractor_of(vit_clip)
    looks = []
    head = found._head
    monkeypatch.setattr(found, "_head", lambda pixels: looks.append(1) or head(pixels))
    queries = ["cat", "dog and cat", ""]
    together = found.many(picture(), queries)
    for query, expected in zip(queries, together, strict=True):
        alone = found(picture(), query)
        np.testing.assert_allclose(alone.map, expected.map, atol=1e-5)
        assert alone.present == expected.present
    assert len(looks) == 1
    assert found.many(picture(), []) == []
    for seed in range(1, extractor.CACHED_PICTURES + 1):
        found(picture(seed=seed), "cat")
    assert len(looks) == 1 + extractor.CACHED_PICTURES
    found(picture(), "cat")
    assert len(looks) == 2 + extractor.CACHED_PICTURES
    # The same bytes in another shape are another picture.
    found(picture().reshape(64, 40, 3), "cat")
    assert len(looks) == 3 + extractor.CACHED_PICTURES


def test_prompts_cut_at_their_end_have_the_same_features(vit_clip):
    tokens = open_clip.tokenize([template.format("cup of coffee") for template in TEMPLATES])
    expected = vit_clip.encode_text(tokens)
    torch.testing.assert_close(encode_text(vit_clip, tokens), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encode_text(vit_clip, tokens, trim=False), expected, atol=1e-5, rtol=1e-5)


def test_weights_that_give_no_numbers_are_told():
    clip = tiny("tiny-vit")
    clip.visual.proj.fill_(torch.inf)
    with pytest.raises(WeightsError, match="no finite numbers"):
        extractor_of(clip)(picture(), "cat")


# ---- options --------------------------------------------------------------------------------------


def test_options_are_read():
    found = parse_settings(
        {"model": "tiny-vit/good", "short-side": "72", "neighbourhood": "2.5", "refine": "no", "precision": "fp16"}
    )
    assert found == Settings(ModelChoice("tiny-vit", "good"), 72, 2.5, refine=False, precision=torch.float16)
    assert str(found.model) == "tiny-vit/good"
    assert (found.model.mean, found.model.deviation) == (TAG["mean"], TAG["std"])
    assert str(parse_settings({}).model) == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model", "", "ARCH or ARCH/TAG.*ViT-B-16"),
        ("model", "tiny-vit/", "ARCH or ARCH/TAG"),
        ("model", "hf-hub:someone/tiny", "ARCH or ARCH/TAG"),
        ("model", "/tmp/weights.pt", "ARCH or ARCH/TAG"),
        ("model", "tiny-vit/bad", "tiny-vit has no tag 'bad'; it has: good, nowhere"),
        ("model", "RN50/openai", "not of RN50"),
        ("model", "ViT-B-16-SigLIP/webli", "not of ViT-B-16-SigLIP"),
        ("model", "coca_ViT-B-32", "not of coca_ViT-B-32"),
        ("short-side", "big", "'big' is not a number of pixels"),
        ("neighbourhood", "0", "'0' is not a number of patches above 0"),
        ("neighbourhood", "nan", "'nan' is not"),
        ("refine", "maybe", "'maybe' is not yes or no"),
        ("precision", "int8", "'int8' is not one of fp32, bf16, fp16"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, value, said):
    with pytest.raises(InvalidInputError, match=said) as caught:
        parse_settings({name: value})
    assert caught.value.field == name


@pytest.mark.parametrize("pixels", ["7", "0", "-3", "5000"])
def test_the_short_side_is_one_patch_at_least(vit_clip, pixels):
    settings = parse_settings({"model": "tiny-vit", "short-side": pixels})
    with pytest.raises(InvalidInputError, match=f"{pixels} is not 8 to 2048 pixels"):
        OpenClipExtractor(vit_clip, settings)


def test_every_plain_architecture_has_a_dense_head():
    names = [name for name in open_clip.list_models() if is_plain(open_clip.get_model_config(name))]
    assert {"ViT-B-16", "ViT-L-14-336-quickgelu", "ViT-H-14", "convnext_base_w_320", "convnext_large_d_320"} <= {*names}
    with torch.device("meta"):
        for name in ("ViT-S-32", "ViT-M-16-alt", "convnext_tiny"):
            clip = open_clip.CLIP(**open_clip.get_model_config(name))
            assert dense.dense_head(clip.visual).stride in {16, 32}


# ---- the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new.safetensors", "new.pt", "new.bin", "training.pt"])
def test_files_of_every_kind_are_read(named_clip, tmp_path, name):
    architecture, clip = named_clip
    state = {key: value.contiguous() for key, value in clip.state_dict().items()}
    if name == "training.pt":
        inner = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": inner, "optimizer": {}}, tmp_path / name)
    else:
        (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    options = {"model": architecture, "short-side": "64"}
    read = load_extractor("open-clip", weights=tmp_path / name, options=options)
    assert read.name == "open-clip"
    np.testing.assert_array_equal(read(picture(), "cat").map, extractor_of(clip, architecture)(picture(), "cat").map)


def test_a_tags_activation_is_that_of_its_file(vit_clip, tmp_path):
    save_file(vit_clip.state_dict(), tmp_path / "a.safetensors")
    activations = [
        type(load_clip(ModelChoice.parse(text), tmp_path / "a.safetensors").visual.transformer.resblocks[0].mlp.gelu)
        for text in ("tiny-vit", "tiny-vit/good")
    ]
    assert [each.__name__ for each in activations] == ["GELU", "QuickGELU"]


class Malice:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def rewritten(clip, **changes):
    return {**clip.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("no.pt", lambda _: b"", "damaged or no weights file"),
        ("no.safetensors", lambda _: b"\xff" * 999, "damaged or no weights file"),
        ("no.pt", lambda _: pickle.dumps(Malice()), "no weights file|code"),
        ("no.pt", lambda _: [1, 2], "holds a list"),
        ("no.pt", lambda _: {"model": {}}, "has no .*; it holds no tiny-vit"),
        ("no.pt", lambda _: tiny("tiny-convnext").state_dict(), "it holds no tiny-vit"),
        ("no.pt", lambda clip: rewritten(clip, visual__proj=torch.zeros(24, 13)), r"visual.proj is \(24, 13\), not"),
        (
            "no.pt",
            lambda clip: rewritten(clip, visual__transformer__resblocks__3__ln_1__bias=torch.zeros(24)),
            "has visual.transformer.resblocks.3.ln_1.bias too; it holds no tiny-vit",
        ),
        ("no.pt", lambda clip: rewritten(clip, visual__proj=torch.full((24, 12), torch.nan)), "not finite"),
    ],
)
def test_other_files_are_refused_by_path(vit_clip, tmp_path, name, content, said):
    content = content(vit_clip)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(WeightsError, match=rf"{name}: .*({said})") as caught:
        load(tmp_path / name, options={"model": "tiny-vit"})
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / "absent.safetensors", options={"model": "tiny-vit"})


# ---- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub(monkeypatch, tmp_path) as server:
        yield server


def test_the_hubs_safetensors_are_fetched_once_and_then_taken_from_the_cache(vit_clip, hub):
    hub.content = save(vit_clip.state_dict())
    expected = load_clip(ModelChoice("tiny-vit", "good")).state_dict()
    torch.testing.assert_close(expected, vit_clip.state_dict())
    asked = len(hub.asked)
    assert {line.split("/")[-1] for line in hub.asked} == {"open_clip_model.safetensors"}
    load_clip(ModelChoice("tiny-vit", "good"))
    assert len(hub.asked) == asked


def test_where_the_hub_has_no_safetensors_the_other_file_is_fetched(vit_clip, hub, tmp_path):
    torch.save(vit_clip.state_dict(), tmp_path / "file")
    hub.content, hub.missing = (tmp_path / "file").read_bytes(), (".safetensors",)
    torch.testing.assert_close(load_clip(ModelChoice("tiny-vit", "good")).state_dict(), vit_clip.state_dict())


@pytest.mark.parametrize("offline", [False, True])
def test_without_file_cache_and_hub_the_error_says_what_helps(monkeypatch, hub, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start_s = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        load()
    assert time.monotonic() - start_s < 10
    assert len(hub.asked) == (0 if offline else 1)
    for said in ("timm/vit_base_patch16_clip_224.openai", "--weights", "MMSC_TRANSMITTER_OPEN_CLIP_WEIGHTS"):
        assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_models_that_the_hub_cannot_have_are_told():
    with pytest.raises(InvalidInputError, match=r"tiny-vit needs a weights file, or .* tags: good, nowhere"):
        load(options={"model": "tiny-vit"})
    with pytest.raises(WeightsError, match="the hub has no tiny-vit/nowhere"):
        load(options={"model": "tiny-vit/nowhere"})


def test_hub_places_are_read_as_open_clip_writes_them():
    assert hub_place("owner/name/") == ("owner/name", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"))
    assert hub_place("owner/name/file.bin") == ("owner/name", ("file.safetensors", "file.bin"))
    assert hub_place("owner/name/f.safetensors") == ("owner/name", ("f.safetensors",))


def test_the_default_is_known_to_open_clip():
    choice = ModelChoice.parse(DEFAULT_MODEL)
    assert choice.pretrained["quick_gelu"]
    assert hub_place(choice.pretrained["hf_hub"])[0] == "timm/vit_base_patch16_clip_224.openai"
    assert weights.is_plain(open_clip.get_model_config(choice.architecture))
