"""Planning for the entropy codec: solves for the budget by coding for real, again and again, ever nearer to it.

```
importance ─► offsets (entropy_levels) ─┐
fineness ───────────────────────────────┴─► levels ─► runs ─► bodies ─► bytes on the wire   (entropy_trials)
   ▲                                                                        │
   └───────────────────────── compared with the budget ◄────────────────────┘
```
One number, the fineness, moves all patches' quantisers together: at the optimum of a relevance-weighted squared
error the steps of two patches keep the ratio that their weights ask for, whatever the budget. What is then left of
the budget goes into the price of a bit, which is the encoder's own affair and has no steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from shared.arrays import Float32Array, UInt8Array
from shared.codec.entropy.codec import EntropyCodec, parts_of
from shared.codec.entropy.context import QUALITIES
from shared.errors import BudgetTooSmallError
from shared.packets import PACKET_HEADER_BYTES
from transmitter.entropy.closing import Goal
from transmitter.entropy.costs import Costs
from transmitter.entropy.revisions import Served
from transmitter.entropy.search import Search
from transmitter.entropy.settings import ALL_EXACT, Setting
from transmitter.entropy.source import prepare
from transmitter.entropy.trial import Trial
from transmitter.entropy.trials import Trials
from transmitter.planning import Body, Earlier, Plan, PlanRequest, worth_sending

_LAYER_SHARE: Final = 0.03
_PLAIN_LAYER_SHARE: Final = 0.008  # where every patch is sent, the layer shows only while they are on their way


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan, and what was learnt while it was made."""

    plan: Plan
    trials: Trials


def plan_entropy(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, request: PlanRequest) -> Planned:
    """Finds what makes the most of a budget.

    Args:
        codec: the codec.
        image: (height, width, 3) RGB.
        relevance: (height, width), 0 to 1; 0 everywhere lets content alone decide.
        request: budget, packet length and what a container adds.

    Returns:
        A plan with `wire_bytes <= request.budget_bytes`.

    Raises:
        BudgetTooSmallError: not even the stream header fits.
    """
    share = _LAYER_SHARE if relevance.any() else _PLAIN_LAYER_SHARE
    source = prepare(codec, image, relevance, int(request.budget_bytes * share))
    trials = Trials(Costs(codec, source), request)
    found = Search(trials, _goal(request)).run()
    if found is None or not found.bodies:
        found = _layer_alone(codec, image, relevance, request)
    return Planned(_plan(found, request), trials)


def replan_entropy(learnt: Trials, request: PlanRequest, earlier: Sequence[Earlier]) -> Plan | None:
    """Finds what makes the most of a budget when some of the picture is there already.

    Args:
        learnt: from a plan of the same picture and relevance, whose background layer the receiver has; goes on
            learning.
        request: budget, packet length and what a container adds.
        earlier: every revision so far.

    Returns:
        A plan with `wire_bytes <= request.budget_bytes`; None where nothing is worth sending.

    Raises:
        InvalidInputError: `earlier` is not of this picture.
    """
    source = replace(learnt.source, layer=b"")
    served = Served.of(earlier, source, learnt.costs.factors)
    trials = Trials(replace(learnt.costs, source=source, served=served, seen=None), request)
    found = Search(trials, _goal(request)).run()
    plan = _plan(found, request) if found else None
    return plan if plan and worth_sending(plan) else None


def plan_exactly(codec: EntropyCodec, image: UInt8Array, request: PlanRequest) -> Plan:
    """Every patch exact, whatever it takes; `request.budget_bytes` is not looked at."""
    source = prepare(codec, image, np.zeros(image.shape[:2], np.float32), 0)
    return _plan(Trials(Costs(codec, source), request).run(Setting(ALL_EXACT)), request)


def _goal(request: PlanRequest) -> Goal:
    return Goal(max(request.budget_bytes, 1), request.enough)  # nothing fits a byte, and nothing divides by it


def _plan(trial: Trial, request: PlanRequest) -> Plan:
    first, *scans = _scans(trial.bodies or (), request) if request.scans > 1 else [trial.bodies or ()]
    header = replace(trial.header, level_map_table=len(scans))
    return Plan(header, trial.levels, first, request.packet_bytes, request.frame_bytes, tuple(scans))


def _scans(bodies: Sequence[Body], request: PlanRequest) -> list[tuple[Body, ...]]:
    """Bodies cut into parts that fit packets: the first part of each, the second of those that have one, and so on."""
    limit = request.packet_bytes - PACKET_HEADER_BYTES
    cut = [(body, parts_of(body.content, limit)) for body in bodies]
    return [
        tuple(replace(body, content=parts[number]) for body, parts in cut if number < len(parts))
        for number in range(max((len(parts) for _, parts in cut), default=1))
    ]


def _layer_alone(codec: EntropyCodec, image: UInt8Array, relevance: Float32Array, request: PlanRequest) -> Trial:
    """For budgets in which no patch fits: all of it for the background."""
    nothing = Setting(QUALITIES)
    bare = Trials(Costs(codec, prepare(codec, image, relevance, 0)), request).run(nothing)
    left = request.budget_bytes - bare.wire_bytes
    if left < 0:
        least = f"{request.budget_bytes} bytes, where the headers alone take {bare.wire_bytes}"
        raise BudgetTooSmallError("budget", least)
    trial = Trials(Costs(codec, prepare(codec, image, relevance, left)), request).run(nothing)
    return trial if trial.wire_bytes <= request.budget_bytes else bare
