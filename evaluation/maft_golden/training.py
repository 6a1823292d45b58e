"""The training step of a golden file: losses, matches and gradients, with the recorded random draws."""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from evaluation.bench.checks import Check
from evaluation.maft_golden.compare import Difference, difference
from evaluation.maft_golden.golden import Golden
from training.maft_plus.replay import replay

LOSS_RELATIVE: Final = 1e-5
GRADIENT_RELATIVE: Final = 1e-4
"""Of a gradient's largest element: each element is a sum in which larger ones cancel."""

COVERAGE_ABSOLUTE: Final = 1e-4
"""Of IoUs in 0..1, as of every tensor of the forward pass."""

_RECORDED: Final = "loss.total"


def training_checks(golden: Golden) -> list[Check]:
    """Does the file's training step again.

    Returns:
        One check per group; none where the file has no training step.

    Raises:
        InvalidInputError: the recording is not complete.
        WeightsError: the file's weights are not those of our model.
    """
    if _RECORDED not in golden.tensors:
        return []
    return check_training(replay(golden.model(teacher=True), golden.tensors), golden.tensors)


def check_training(ours: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> list[Check]:
    """Compares what a training step gave; a tensor that we lack is out of tolerance.

    Args:
        ours: by the file's names.
        golden: of the file, `loss.*`, `match.*`, `ma.*` and `grad.*` among them.
    """
    return [
        _check("losses", "loss.", ours, golden, f"<= {LOSS_RELATIVE:g} |golden|"),
        _check("matches", "match.", ours, golden, "equal"),
        _check("mask coverage (eq. 5)", "ma.", ours, golden, f"<= {COVERAGE_ABSOLUTE:g}"),
        _check("gradients", "grad.", ours, golden, f"<= {GRADIENT_RELATIVE:g} max |golden|"),
    ]


def _check(group: str, prefix: str, ours: Mapping[str, Tensor], golden: Mapping[str, Tensor], bar: str) -> Check:
    names = [name for name in golden if name.startswith(prefix)]
    found = [_difference(name, ours.get(name), golden[name]) for name in names]
    if not found:
        return Check(f"{group}: none recorded", 0.0, "", bar, False)
    worst = max(found, key=lambda each: (each.excess, each.largest))
    largest = float(golden[worst.name].abs().max())
    # Relative to the tensor, so that the worst of tensors of any size can be read off.
    value, unit = (worst.largest, "differ") if prefix == "match." else (worst.largest / largest, "relative")
    return Check(f"{group}: worst of {len(found)}, {worst.name}", value, unit, bar, worst.excess <= 1)


def _difference(name: str, ours: Tensor | None, golden: Tensor) -> Difference:
    if name.startswith("grad."):
        largest = float(golden.abs().max())
        return difference(name, ours, golden, absolute=GRADIENT_RELATIVE * largest, relative=0.0)
    if name.startswith("ma."):
        return difference(name, ours, golden, absolute=COVERAGE_ABSOLUTE, relative=0.0)
    return difference(name, ours, golden, absolute=0.0, relative=LOSS_RELATIVE)
