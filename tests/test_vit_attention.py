"""The baseline's attention against a plain reference, its maps, and its weights: read, refused, and asked of a hub."""

import pickle

import numpy as np
import pytest
import torch
from hub_fakes import hub_fixture, refusal  # noqa: F401 - a fixture
from huggingface_hub import constants
from safetensors.torch import save, save_file
from timm.models.vision_transformer import VisionTransformer
from weights_fakes import Malice, assert_file_refused, rewritten

from shared.errors import InvalidInputError, WeightsError
from transmitter.relevance import load_extractor, vit_attention
from transmitter.relevance.vit_attention import HUB_FILE, ViTAttentionExtractor, cls_attention, load, to_input

HEADS, DEPTH, WIDTH, SIDE = 3, 3, 24, 32


def tiny(seed=0):
    """A small vision transformer with random weights, far enough from zero for its attention to be uneven."""
    torch.manual_seed(seed)
    settings = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0, "dynamic_img_size": True}
    model = VisionTransformer(img_size=SIDE, patch_size=8, **settings).eval().requires_grad_(False)
    for values in model.parameters():
        torch.nn.init.normal_(values, std=0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture
def small_network(monkeypatch):
    """The loader's network is the small one, with other weights than any file."""
    monkeypatch.setattr(vit_attention, "_network", lambda: tiny(seed=9))


def picture(height=SIDE, width=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# ---- the attention --------------------------------------------------------------------------------


def reference(model, pixels):
    """(patches,) mean over the heads of the last block's CLS attention, written out from the weights alone."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    tokens = np.array(
        [
            np.tensordot(weights["patch_embed.proj.weight"], pixels[:, y : y + 8, x : x + 8], 3)
            + weights["patch_embed.proj.bias"]
            for y in range(0, pixels.shape[1], 8)
            for x in range(0, pixels.shape[2], 8)
        ]
    )
    tokens = np.vstack([weights["cls_token"][0], tokens]) + weights["pos_embed"][0]
    for block in range(DEPTH):
        own = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"blocks.{block}.")}
        attended, attentions = attend(normed(tokens, own, "norm1"), own)
        tokens = tokens + attended
        hidden = normed(tokens, own, "norm2") @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]
        hidden = torch.nn.functional.gelu(torch.from_numpy(hidden)).numpy()
        tokens = tokens + hidden @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    return np.mean([attention[0, 1:] for attention in attentions], axis=0)


def normed(tokens, own, name):
    centred = tokens - tokens.mean(axis=1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6) * own[f"{name}.weight"] + own[f"{name}.bias"]
    )


def attend(tokens, own):
    """What one attention adds to the tokens, and its matrix for each head."""
    size, outputs, attentions = WIDTH // HEADS, [], []
    for head in range(HEADS):
        query, key, value = (
            tokens @ own["attn.qkv.weight"][start : start + size].T + own["attn.qkv.bias"][start : start + size]
            for start in (part * WIDTH + head * size for part in range(3))
        )
        raised = np.exp(query @ key.T / np.sqrt(size))
        attentions.append(raised / raised.sum(axis=1, keepdims=True))
        outputs.append(attentions[-1] @ value)
    return np.hstack(outputs) @ own["attn.proj.weight"].T + own["attn.proj.bias"], attentions


def test_the_attention_is_that_of_a_plain_reference(model):
    pixels = to_input(picture())
    expected = reference(model, pixels[0].double().numpy())
    attention = cls_attention(model, pixels).numpy()
    assert attention.shape == (4, 4)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(attention.ravel(), expected, atol=1e-5)


def test_at_other_sizes_it_is_what_timm_computes_without_fusing(model):
    seen = []
    last = model.blocks[-1].attn
    hook = last.attn_drop.register_forward_hook(lambda *details: seen.append(details[2]))
    fused, last.fused_attn = last.fused_attn, False
    pixels = to_input(picture(40, 88))
    try:
        model(pixels)
    finally:
        last.fused_attn = fused
        hook.remove()
    (matrix,) = seen
    expected = matrix[0, :, 0, 1:].mean(dim=0).reshape(5, 11)
    np.testing.assert_allclose(cls_attention(model, pixels), expected, atol=1e-6)
    assert float(expected.sum() + matrix[0, :, 0, 0].mean()) == pytest.approx(1, abs=1e-5)


# ---- the map --------------------------------------------------------------------------------------


def test_each_patch_has_its_own_attention_stretched_to_the_whole_range(model):
    image = picture(24, 40)
    found = ViTAttentionExtractor(model)(image, "cat")
    attention = cls_attention(model, to_input(image)).numpy()
    stretched = (attention - attention.min()) / np.ptp(attention)
    assert found.present
    assert (found.map.min(), found.map.max()) == (0, 1)
    np.testing.assert_allclose(found.map, np.kron(stretched, np.ones((8, 8))), atol=1e-6)


def test_the_query_is_ignored(model):
    extractor = ViTAttentionExtractor(model)
    maps = [extractor(picture(), query) for query in ("", "cat", "a unicorn that is not there")]
    assert all(found.present for found in maps)
    np.testing.assert_array_equal(maps[0].map, maps[1].map)
    np.testing.assert_array_equal(maps[0].map, maps[2].map)


def test_pictures_are_rgb_normalised_by_imagenet():
    colour = np.array([255, 0, 128], np.uint8)
    pixels = to_input(np.broadcast_to(colour, (8, 16, 3)))
    expected = (colour / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert pixels.shape == (1, 3, 8, 16)
    np.testing.assert_allclose(pixels[0, :, 3, 5], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((320, 480), (320, 480)),
        ((640, 960), (320, 480)),
        ((427, 640), (320, 480)),
        ((1, 1), (8, 8)),
        ((2, 4000), (8, 480)),
    ],
)
def test_large_pictures_are_scaled_to_480_and_all_to_whole_patches(size, expected):
    assert to_input(np.zeros((*size, 3), np.uint8)).shape[2:] == expected


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 13), (7, 300), (33, 31), (500, 20)])
def test_any_size_gives_a_map_of_that_size(model, height, width):
    found = ViTAttentionExtractor(model)(picture(height, width), "")
    assert found.map.shape == (height, width)
    assert found.map.dtype == np.float32
    # A single patch is as relevant as itself: nothing stands out.
    assert (found.map.min(), found.map.max()) == ((0, 0) if max(height, width) < 12 else (0, 1))


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)])
def test_other_arrays_are_refused(model, image):
    with pytest.raises(InvalidInputError, match="image"):
        ViTAttentionExtractor(model)(image, "")


# ---- the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["new.safetensors", "new.pth"])
def test_both_kinds_of_file_are_read(model, small_network, tmp_path, name):
    write = save_file if name.endswith("safetensors") else torch.save
    write(model.state_dict(), tmp_path / name)
    np.testing.assert_array_equal(
        load(tmp_path / name)(picture(), "").map, ViTAttentionExtractor(model)(picture(), "").map
    )


def test_the_real_network_is_dinos_vit_s8(tmp_path):
    path = tmp_path / "random.safetensors"
    state = vit_attention._network().state_dict()
    save_file({**{name: value.half() for name, value in state.items()}, "head.bias": torch.zeros(3)}, path)
    # As in DINO's own release: names, 12 blocks of 384 channels, patches of 8 pixels on a grid of 28 x 28, and CLS.
    assert state["blocks.11.attn.qkv.weight"].shape == (3 * 384, 384)
    assert state["patch_embed.proj.weight"].shape == (384, 3, 8, 8)
    assert state["pos_embed"].shape == (1, 1 + 28 * 28, 384)
    assert len([name for name in state if name.endswith("norm1.weight")]) == 12
    extractor = load_extractor("vit-attention", weights=path)
    assert extractor._model.blocks[0].attn.num_heads == 6
    found = extractor(picture(96, 130), "cat")
    assert found.map.shape == (96, 130)
    assert (found.map.min(), found.map.max()) == (0, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("no.pth", lambda _: b"", "damaged or no weights file"),
        ("no.pth", lambda _: b"\xff" * 999, "damaged or no weights file"),
        ("no.pth", lambda _: pickle.dumps(Malice()), "damaged or no weights file"),
        ("no.safetensors", lambda _: b"\xff" * 999, "damaged or no weights file"),
        ("no.pth", lambda _: [1, 2], "holds a list"),
        ("no.pth", lambda _: {"teacher": {}}, "has no cls_token; it holds no vit_small_patch8_224.dino"),
        (
            "no.pth",
            lambda model: rewritten(model, pos_embed=torch.zeros(1, 5, WIDTH)),
            r"pos_embed is \(1, 5, 24\), not",
        ),
        ("no.pth", lambda model: rewritten(model, norm__bias=torch.full((WIDTH,), torch.nan)), "norm.bias.*not finite"),
    ],
)
def test_other_files_are_refused_by_path(model, small_network, tmp_path, name, content, said):
    assert_file_refused(load, tmp_path / name, content(model), said)


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", ""])
def test_a_file_that_cannot_be_read_is_refused(small_network, tmp_path, name):
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / name)


# ---- the hub --------------------------------------------------------------------------------------


def test_the_hubs_file_is_fetched_once_and_then_taken_from_the_cache(model, small_network, hub):
    hub.content, expected = save(model.state_dict()), ViTAttentionExtractor(model)(picture(), "").map
    np.testing.assert_array_equal(load()(picture(), "").map, expected)
    asked = len(hub.asked)
    assert set(hub.asked) == {
        f"{verb} /timm/vit_small_patch8_224.dino/resolve/main/{HUB_FILE}" for verb in ("HEAD", "GET")
    }
    np.testing.assert_array_equal(load()(picture(), "").map, expected)
    assert len(hub.asked) == asked


@pytest.mark.parametrize("offline", [False, True])
def test_without_file_cache_and_hub_the_error_says_what_helps(monkeypatch, hub, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    said = refusal(load)
    assert len(hub.asked) == (0 if offline else 1)
    for words in ("timm/vit_small_patch8_224.dino", HUB_FILE, "dino_deitsmall8_pretrain.pth", "--weights"):
        assert words in said
    assert "MMSC_TRANSMITTER_VIT_WEIGHTS" in said
