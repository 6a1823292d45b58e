"""How far our tensors are from the golden ones, by groups."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from evaluation.bench.checks import Check

ABSOLUTE: Final = 1e-4
RELATIVE: Final = 1e-5

_GROUPS: Final = {
    "input": ("input.",),
    "text": ("text.", "query.features", "query.t"),
    "trunk": ("feat.",),
    "pixel decoder": ("pd.", "E_pixel"),
    "mask decoder": ("dec.", "E_mask"),
    "mask vectors": ("clip.", "V"),
    "content transfer": ("cdt.", "T_hat", "query.t_hat", "aside.T_hat"),
    "scores": ("outvocab.", "eq3.", "eq4."),
    "semantic inference": ("post.",),
    "equation 7": ("eq7.",),
}
"""Beginnings of names, in the order of the computation; the longest that fits decides."""

_OTHER: Final = "other"

_SCRAMBLED, _STRAIGHT = "cdt.img_feat", "aside.img_feat_if_permuted_first"


@dataclass(frozen=True)
class Difference:
    """One tensor, ours against the golden one."""

    name: str
    largest: float
    """The largest absolute difference; of integers, how many differ; infinite where shapes differ or ours is absent."""
    excess: float
    """The largest difference in units of what is tolerated there; more than 1 is out of tolerance."""


def difference(name: str, ours: Tensor | None, golden: Tensor, *, absolute: float, relative: float) -> Difference:
    """Compares element by element: within absolute + relative * |golden|; integers must be equal."""
    if ours is None or ours.shape != golden.shape:
        return Difference(name, float("inf"), float("inf"))
    if not golden.is_floating_point():
        count = float((ours != golden).sum())
        return Difference(name, count, float("inf") if count else 0.0)
    off = (ours.double() - golden.double()).abs()
    excess = off / (absolute + relative * golden.double().abs())
    # Any NaN is as wrong as can be; maxima would let it through or not, as the order has it.
    worst = float("inf") if excess.isnan().any() else float(excess.max())
    return Difference(name, float(off.nan_to_num(torch.inf).max()), worst)


def check_groups(
    differences: Iterable[Difference],
    group_of: Callable[[str], str],
    *,
    absolute: float = ABSOLUTE,
    relative: float = RELATIVE,
) -> list[Check]:
    """One check per group: the tensor that is worst in it, its largest difference, whether all are within tolerance."""
    groups: dict[str, list[Difference]] = {}
    for each in differences:
        groups.setdefault(group_of(each.name), []).append(each)
    bar = f"<= {absolute:g} + {relative:g} |golden|"
    return [_check(group, members, bar) for group, members in groups.items()]


def _check(group: str, members: list[Difference], bar: str) -> Check:
    worst = max(members, key=lambda each: (each.excess, each.largest))
    name = f"{group}: worst of {len(members)}, {worst.name}"
    return Check(name, worst.largest, "absolute", bar, worst.excess <= 1)


def check_forward(ours: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> list[Check]:
    """Every golden tensor of the forward pass against ours, by groups; one that we lack is out of tolerance.

    Args:
        ours: by the file's names.
        golden: the file's, those of inputs and of the training step left out.
    """
    order = [*_GROUPS, _OTHER]
    names = sorted((name for name in golden if name != _STRAIGHT), key=lambda name: order.index(_group_of(name)))
    differences = (
        difference(name, ours.get(name), golden[name], absolute=ABSOLUTE, relative=RELATIVE) for name in names
    )
    return [*check_groups(differences, _group_of), *_check_scrambled(ours, golden)]


def check_inference(ours: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> list[Check]:
    """What the short way gives, as one group."""
    differences = (
        difference(name, value, golden[name], absolute=ABSOLUTE, relative=RELATIVE)
        for name, value in ours.items()
        if name in golden
    )
    return check_groups(differences, lambda _: "short way of inference")


def _check_scrambled(ours: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> Iterator[Check]:
    """The transfer's tokens are those of the original, and so not what a transposition would give (FACTS 0.1)."""
    if _STRAIGHT not in golden or _SCRAMBLED not in ours:
        return
    apart = float((ours[_SCRAMBLED] - golden[_STRAIGHT]).abs().max())
    yield Check("content transfer: tokens differ from those of straight order by", apart, "", "> 0.01", apart > 0.01)


def _group_of(name: str) -> str:
    fitting = [(len(start), group) for group, starts in _GROUPS.items() for start in starts if name.startswith(start)]
    return max(fitting)[1] if fitting else _OTHER
