"""Writes tests/expected/maft_plus_numbers.json: `python -m tests.make_maft_numbers`.

A small model with weights and pictures made of sines, in the shape of the original's second golden file: two pictures
of different sizes, four decoder layers, so that the level wraps round, a logit scale above its clamp, a CLIP map that
is not square. Made anew only after `python -m evaluation.maft_golden` has passed a file of the original.
"""

import json
import math
from pathlib import Path

import torch
from torch.nn import functional

from transmitter.relevance.maft_plus.config import MaftConfig
from transmitter.relevance.maft_plus.model import MaftPlus, normalise_and_pad

EXPECTED = Path(__file__).parent / "expected" / "maft_plus_numbers.json"

CONFIG = MaftConfig(
    trunk_depths=(2, 1, 2, 1),
    trunk_dims=(16, 24, 48, 96),
    embed_dim=48,
    clip_head="mlp",
    text_width=32,
    text_heads=4,
    text_layers=2,
    vocab_size=64,
    context_length=12,
    hidden=64,
    heads=4,
    encoder_layers=2,
    encoder_ffn=64,
    decoder_layers=4,
    decoder_ffn=48,
    queries=7,
)
SIZES = ((100, 75), (130, 97))
SYNONYMS = (1, 2, 1)
SAMPLES = 5
START = 88
"""Of the sines: with it no mask logit lies near its threshold, and some queries are blocked everywhere."""


def sine_model():
    """Weights that any machine computes alike."""
    model = MaftPlus(CONFIG).eval()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters(), START):
            waves = sines(parameter.shape, number)
            if name.endswith("logit_scale"):
                parameter.fill_(math.log(130.0))
            elif name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "gamma", "norm1.weight", "norm2.weight")):
                parameter.copy_(1 + 0.3 * waves)
            else:
                parameter.copy_(waves * (1.7 / math.sqrt(max(1, parameter[0].numel() if parameter.ndim > 1 else 25))))
    return model.requires_grad_(False)


def sines(shape, number):
    """-1 to 1, without a pattern that networks could see."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(steps * steps * 0.37 + steps * (1.1 + number) + number).reshape(shape).float()


def inputs():
    """Pictures of two sizes, and four unit vectors as texts."""
    images = [(sines((3, *size), number) + 1) * 127.5 for number, size in enumerate(SIZES)]
    return normalise_and_pad(images), functional.normalize(sines((sum(SYNONYMS), CONFIG.embed_dim), 9), dim=-1)


def tensors_of(output):
    """What is compared, by name."""
    found = {f"features {i}": x for i, x in enumerate(output.features)}
    found |= {f"memory {i}": x for i, x in enumerate(output.pixels.memories)}
    found |= {"pixel": output.pixels.pixel, "V": output.vectors, "T_hat": output.texts, "logits": output.logits}
    for i, prediction in enumerate(output.predictions):
        parts = prediction._asdict()
        found |= {f"prediction {i} {name}": value.float() for name, value in parts.items()}
    return found


def numbers_of(tensor):
    """Mean size and a few elements far apart."""
    flat = tensor.double().flatten()
    places = [len(flat) * i // SAMPLES + i for i in range(SAMPLES)]
    return [round(float(x), 7) for x in (flat.abs().mean(), *flat[places])]


def smallest_margin(output):
    """Distance of the nearest mask logit from the threshold, wherever one is compared with it."""
    near = [prediction.mask_logits.abs().min() for prediction in output.predictions]
    sizes = [memory.shape[2:] for memory in output.pixels.memories]
    for i, prediction in enumerate(output.predictions):
        resized = functional.interpolate(prediction.mask_logits, sizes[i % 3], mode="bilinear", align_corners=False)
        near.append(resized.abs().min())
    return float(min(near))


def main():
    model, (images, texts) = sine_model(), inputs()
    output = model(images, model.vocabulary(texts, SYNONYMS))
    print("smallest margin", smallest_margin(output), [int(p.blocked.all(-1).sum()) for p in output.predictions])
    numbers = {name: numbers_of(tensor) for name, tensor in tensors_of(output).items()}
    EXPECTED.write_text(json.dumps(numbers, indent=0) + "\n")


if __name__ == "__main__":
    main()
