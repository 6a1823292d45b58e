"""Dense heads of plain CLIPs against plain references, and the sizes of pictures."""

import numpy as np
import pytest
import torch
from open_clip_small import extractor_of, named_clip_fixture, picture, tiny, tiny_architectures, vit_clip_fixture  # noqa: F401 - fixtures

from shared.errors import InvalidInputError
from transmitter.relevance.open_clip_dense import dense, vit


@pytest.fixture(scope="module")
def convnext_clip():
    return tiny("tiny-convnext")


# ---- ViT: neighbourhood attention ----------------------------------------------------------------


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


# ---- ConvNeXt: the visual head everywhere --------------------------------------------------------


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


# ---- sizes ---------------------------------------------------------------------------------------


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
