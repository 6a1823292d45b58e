"""Coarse maps refined along the edges of the picture: better than bilinear ones, and never much worse."""

import numpy as np
import pytest
import torch

from transmitter.relevance.open_clip_dense.refinement import to_pixels


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
