"""A recorded training step of the original, done again with our code and the recorded random draws.

Names of tensors are those of the golden files (`GOLDEN.md`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shared.errors import InvalidInputError
from training.maft_plus.alignment_losses import min_max, soft_iou
from training.maft_plus.classes import ClassText
from training.maft_plus.matching import Match
from training.maft_plus.optimiser import freeze
from training.maft_plus.step import TrainingStep, mask_count
from training.maft_plus.targets import Target, pad_targets
from transmitter.relevance.maft_plus.model import MaftPlus

_GRADIENT = "grad."


class RecordedDraws:
    """Hands out recorded draws in their order; a `Draw`.

    Args:
        draws: (rows, points, 2) each.
    """

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self._draws, self._next = draws, 0

    def __call__(self, images: Sequence[int], points: int) -> Tensor:
        """As `Draw` says.

        Raises:
            InvalidInputError: the recording asked for other numbers here, or for none.
        """
        wanted = (len(images), points, 2)
        found = self._draws[self._next] if self._next < len(self._draws) else torch.zeros(0)
        if tuple(found.shape) != wanted:
            raise InvalidInputError("file", f"draw {self._next} is {tuple(found.shape)}, and {wanted} is asked for")
        self._next += 1
        return found

    @property
    def left(self) -> int:
        """How many have not been asked for."""
        return len(self._draws) - self._next


def replay(model: MaftPlus, golden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Does the step: losses, matches, soft IoUs and the recorded gradients.

    Args:
        model: with the recorded weights and the teacher, on the CPU; gradients are left in it.
        golden: `input.image*`, `target.*`, `rand.*`, `text.classifier` and `text.num_templates` of the recording, and
            whichever `grad.*` are wanted.

    Returns:
        Ours under the recording's names and in its shapes: `loss.*`, `match.*`, `ma.*`, `grad.*`.

    Raises:
        InvalidInputError: the recording is not complete, or its draws were asked for in another order.
    """
    try:
        draws = RecordedDraws(_numbered(golden, "rand.", 3))
        counts = tuple(int(count) for count in golden["text.num_templates"])
        text, points = ClassText(golden["text.classifier"], counts), golden["rand.000"].shape[1]
        pictures = _numbered(golden, "input.image")
        targets = [
            Target(golden[f"target.labels{image}"], golden[f"target.masks{image}"].bool())
            for image in range(len(pictures))
        ]
    except KeyError as error:
        raise InvalidInputError("file", f"{error} of the training step is not recorded") from error
    freeze(model)
    step = TrainingStep(model, text, points=points)
    step.set_mode()
    made = step(pictures, targets, mask_count(targets), draws)
    if draws.left:
        raise InvalidInputError("file", f"{draws.left} of the recorded draws were not asked for")
    total = torch.stack(list(made.terms.values())).sum()
    model.zero_grad()
    torch.autograd.backward(total)
    losses = {**made.terms, "total": total}
    return {
        **{f"loss.{name}": value.detach().view(1) for name, value in losses.items()},
        **_matches(made.matches),
        **_coverage(made.masks, targets),
        **_gradients(model, golden),
    }


def _numbered(golden: Mapping[str, Tensor], prefix: str, digits: int = 1) -> list[Tensor]:
    count = sum(name.startswith(prefix) for name in golden)
    return [golden[f"{prefix}{number:0{digits}d}"] for number in range(count)]


def _matches(calls: Sequence[Sequence[Match]]) -> dict[str, Tensor]:
    return {
        f"match.call{call}.image{image}": torch.stack([pairs.queries, pairs.segments])
        for call, found in enumerate(calls)
        for image, pairs in enumerate(found)
    }


def _coverage(masks: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
    padded = pad_targets(targets, 4 * masks.shape[2], 4 * masks.shape[3])
    raw = [soft_iou(own, target.masks) for own, target in zip(masks, padded, strict=True)]
    return {"ma.iou_raw": torch.cat(raw), "ma.iou_norm": torch.cat([min_max(rows) for rows in raw])}


def _gradients(model: MaftPlus, golden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The recorded ones; the logit scale is recorded as (1,)."""
    parameters = dict(model.named_parameters())
    found = {}
    for name in (name for name in golden if name.startswith(_GRADIENT)):
        parameter = parameters.get(name.removeprefix(_GRADIENT))
        if parameter is not None and parameter.grad is not None:
            found[name] = parameter.grad.reshape(golden[name].shape)
    return found
