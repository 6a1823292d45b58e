"""One step of MAFT+'s training: what learns, at which rates, and what its losses reach."""

import pytest
import torch
from maft_training_data import SMALL, picture, random_text, small_model, small_step

from shared.errors import InvalidInputError
from training.maft_plus.optimiser import clip_gradients, freeze, make_optimiser, rate_share, rules, set_rates
from training.maft_plus.points import PictureDraws
from training.maft_plus.step import TrainingStep
from training.maft_plus.targets import Target
from transmitter.relevance.maft_plus.model import MaftPlus

CPU = torch.device("cpu")
TRUNK = "backbone.clip_model.visual.trunk."


def drawn_batch(count=2):
    pairs = [picture(number) for number in range(count)]
    targets = []
    for _, labels in pairs:
        numbers = sorted(set(labels.ravel().tolist()))
        targets.append(Target(torch.tensor(numbers), torch.stack([torch.from_numpy(labels == n) for n in numbers])))
    return [torch.from_numpy(pixels.transpose(2, 0, 1).copy()) for pixels, _ in pairs], targets


def outcome(step, **modes):
    freeze(step.model)
    step.set_mode(**modes)
    pictures, targets = drawn_batch()
    return step(pictures, targets, 4, PictureDraws([1, 2], CPU))


def test_trunk_head_transfer_and_void_learn_and_nothing_else():
    model = small_model()
    freeze(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    still = {name for name, _ in model.named_parameters()} - learning
    assert {name.split(".")[0] for name in learning} == {"backbone", "sem_seg_head", "cdt", "void_embedding"}
    assert all(name.startswith((f"{TRUNK}stem", f"{TRUNK}stages")) for name in learning if "backbone" in name)
    assert {f"{TRUNK}head.norm.weight", "backbone.clip_model.logit_scale"} < still
    assert all(name.startswith(("backbone.", "backbone_t.")) for name in still)


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [
        (f"{TRUNK}stem.0.weight", 1e-5, 2e-5),
        (f"{TRUNK}stem.1.weight", 1e-5, 0.0),
        (f"{TRUNK}stages.0.blocks.0.gamma", 1e-5, 2e-5),
        (f"{TRUNK}stages.0.blocks.0.norm.bias", 1e-5, 0.0),
        ("sem_seg_head.pixel_decoder.transformer.level_embed", 1e-4, 2e-5),
        ("sem_seg_head.pixel_decoder.adapter_1.norm.weight", 1e-4, 0.0),
        ("sem_seg_head.pixel_decoder.mask_features.bias", 1e-4, 2e-5),
        ("sem_seg_head.predictor.level_embed.weight", 1e-4, 0.0),
        ("sem_seg_head.predictor.query_feat.weight", 1e-4, 0.0),
        ("sem_seg_head.predictor.logit_scale", 1e-4, 2e-5),
        ("cdt.cross_atten.norm.weight", 1e-4, 0.0),
        ("cdt.cross_atten.MLP.weight", 1e-4, 2e-5),
        ("void_embedding.weight", 1e-4, 0.0),
    ],
)
def test_every_kind_of_parameter_has_its_rate_and_decay(name, rate, decay):
    model = small_model()
    freeze(model)
    found = {path: rule for path, _, rule in rules(model)}
    assert found[name].rate == pytest.approx(rate)
    assert found[name].weight_decay == decay
    optimiser = make_optimiser(model)
    grouped = sum(len(group["params"]) for group in optimiser.param_groups)
    assert grouped == len(found) == sum(parameter.requires_grad for parameter in model.parameters())


def test_rates_fall_to_nothing_along_a_power():
    model = small_model()
    freeze(model)
    optimiser = make_optimiser(model, 2e-4)
    set_rates(optimiser, 30_000, 60_000)
    rates = sorted({group["lr"] for group in optimiser.param_groups})
    assert rates == pytest.approx([2e-5 * 0.5**0.9, 2e-4 * 0.5**0.9])
    assert rate_share(0, 60_000) == 1
    assert 0 < rate_share(59_999, 60_000) < 1e-4


def test_gradients_of_the_whole_model_are_shortened_to_a_hundredth():
    step = small_step()
    made = outcome(step)
    sum(made.terms.values()).backward()
    norm = clip_gradients(step.model)
    after = torch.stack([p.grad.norm() for p in step.model.parameters() if p.grad is not None]).norm()
    assert norm > 1
    assert float(after) == pytest.approx(0.01, rel=1e-3)


def test_proposals_do_not_tune_clip_and_clip_does_not_tune_the_head():
    step = small_step()
    made = outcome(step)
    tuning = ("ranking_loss", "rc_loss")
    proposed = sum(value for name, value in made.terms.items() if name not in tuning)
    proposed.backward(retain_graph=True)
    assert not any(p.grad is not None and p.grad.any() for p in step.model.backbone.parameters())
    assert all(p.grad is not None for p in step.model.sem_seg_head.parameters())
    step.model.zero_grad()
    sum(made.terms[name] for name in tuning).backward()
    assert not any(p.grad is not None and p.grad.any() for p in step.model.sem_seg_head.parameters())
    assert step.model.backbone.clip_model.visual.trunk.stem[0].weight.grad.any()
    assert step.model.cdt.cross_atten.MLP.weight.grad.any()


def test_blocks_are_dropped_where_they_are_said_to_be():
    steps = [small_step() for _ in range(3)]
    for step in steps:
        for trunk in (step.model.backbone, step.model.backbone_t):
            for module in trunk.modules():
                if hasattr(module, "drop_prob"):
                    module.drop_prob = 0.99
            for stage in trunk.clip_model.visual.trunk.stages:
                stage.blocks[0].gamma.data.fill_(1.0)
    torch.manual_seed(0)
    plain, taught, both = (
        outcome(step, student_depth=student, teacher_depth=teacher).terms
        for step, student, teacher in zip(steps, (False, False, True), (False, True, True), strict=True)
    )
    assert plain["rc_loss"] == 0
    assert taught["rc_loss"] > 0
    assert taught["loss_ce"] == plain["loss_ce"]
    assert both["loss_ce"] != plain["loss_ce"]


def test_half_precision_gives_nearly_the_same():
    full = outcome(small_step())
    half = TrainingStep(small_model(), random_text(), points=64, autocast=torch.bfloat16)
    found = outcome(half)
    total, other = (sum(each.terms.values()) for each in (full, found))
    assert other.item() == pytest.approx(total.item(), rel=0.05)
    other.backward()
    assert all(p.grad.isfinite().all() for p in half.model.parameters() if p.grad is not None)


def test_a_step_needs_a_teacher_and_fitting_text():
    with pytest.raises(InvalidInputError, match="no teacher"):
        TrainingStep(MaftPlus(SMALL), random_text())
    with pytest.raises(InvalidInputError, match="16 channels, not 32"):
        TrainingStep(small_model(), random_text(channels=16))
