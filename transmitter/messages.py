"""Between the pipeline's plain values and the messages of `transmitter.proto`."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from shared.errors import InvalidInputError
from shared.pictures import png_bytes
from shared.reports import Report
from shared.stubs.mmsc.v1 import channel_pb2, common_pb2, transmitter_pb2
from transmitter.budget import Budget
from transmitter.pipeline import Job, PlanStage, RelevanceStage
from transmitter.planning import Plan

_STRATEGIES: Final = {
    transmitter_pb2.ALLOCATION_UNSPECIFIED: "rate-distortion",
    transmitter_pb2.ALLOCATION_RATE_DISTORTION: "rate-distortion",
    transmitter_pb2.ALLOCATION_GREEDY: "greedy",
    transmitter_pb2.ALLOCATION_VIT_SC: "vit-sc",
}


def job_from(request: transmitter_pb2.TransmitRequest, transmission_id: int) -> Job:
    """Reads a request.

    Raises:
        InvalidInputError: a field is missing or out of range.
    """
    options = request.options
    if options.allocation not in _STRATEGIES:
        raise InvalidInputError("options.allocation", f"unknown value {options.allocation}")
    job = Job(request.image, request.query, budget_from(request.budget), transmission_id)
    return replace(
        job,
        strategy=_STRATEGIES[options.allocation],
        packet_bytes=options.packet_bytes or job.packet_bytes,
        extractor=options.extractor,
        relevance_png=options.relevance_png,
        codec=options.codec,
    )


def budget_from(message: transmitter_pb2.Budget) -> Budget:
    """Reads a budget.

    Raises:
        InvalidInputError: none is given, or it is not above 0.
    """
    kind = message.WhichOneof("limit")
    if kind is None:
        raise InvalidInputError("budget", "one of wire_bytes, percent_of_raw and deadline_s must be given")
    return Budget(kind, getattr(message, kind))


def relevance_message(stage: RelevanceStage, *, with_map: bool) -> transmitter_pb2.RelevanceReady:
    """The event that tells of the relevance map."""
    return transmitter_pb2.RelevanceReady(
        extractor=stage.extractor,
        present=stage.relevance.present,
        mean_relevance=float(stage.relevance.map.mean()),
        elapsed_s=stage.elapsed_s,
        relevance_png=png_bytes(np.rint(stage.relevance.map * 255).astype(np.uint8)) if with_map else b"",
    )


def plan_message(stage: PlanStage, transmission_id: str, *, with_map: bool) -> transmitter_pb2.PlanMade:
    """The event that tells of the plan."""
    header = stage.plan.header
    level_map = stage.plan.levels.reshape(header.grid.rows, header.grid.columns)
    return transmitter_pb2.PlanMade(
        transmission_id=transmission_id,
        budget_bytes=stage.budget_bytes,
        wire_bytes=stage.plan.wire_bytes,
        packets=len(stage.packets),
        width=header.grid.width,
        height=header.grid.height,
        levels=_level_counts(stage.plan),
        level_map_bytes=len(header.level_map),
        elapsed_s=stage.elapsed_s,
        level_map_png=png_bytes(level_map) if with_map else b"",
        spread_by_content=stage.spread_by_content,
        codec=stage.plan.codec.name,
        content_bytes=stage.plan.content_bytes,
    )


def _level_counts(plan: Plan) -> list[common_pb2.LevelCount]:
    sizes = zip(plan.codec.patch_bytes, plan.level_counts.tolist(), strict=True)
    return [
        common_pb2.LevelCount(level=level, patch_bytes=size, patches=count) for level, (size, count) in enumerate(sizes)
    ]


def delivered_message(
    plan: PlanStage,
    report: Report,
    link: channel_pb2.LinkState,
    stages: Mapping[str, float],
    elapsed_s: float,
) -> transmitter_pb2.Delivered:
    """The last event: what arrived, and where the time went."""
    return transmitter_pb2.Delivered(
        transmission_id=f"{report.transmission_id:08x}",
        outcome=common_pb2.Outcome.ValueType(report.outcome),
        budget_bytes=plan.budget_bytes,
        wire_bytes=plan.plan.wire_bytes,
        received_bytes=report.received_bytes,
        sent_patches=int(np.count_nonzero(plan.plan.levels)),
        received_patches=report.received_patches,
        elapsed_s=elapsed_s,
        stages=stage_seconds(plan, report, link.settings, stages, elapsed_s),
        link=link,
    )


def stage_seconds(
    plan: PlanStage,
    report: Report,
    link: channel_pb2.LinkSettings,
    stages: Mapping[str, float],
    elapsed_s: float,
) -> transmitter_pb2.StageSeconds:
    """Splits the elapsed time into its stages; the overhead is what no stage explains."""
    known = {f"{name}_s": seconds for name, seconds in stages.items()}
    known["serialization_s"] = 8 * plan.plan.wire_bytes / link.rate_bps if link.rate_bps else math.nan
    known["propagation_s"] = 2 * link.propagation_s
    known["reconstruct_s"] = report.reconstruct_s
    return transmitter_pb2.StageSeconds(**known, overhead_s=elapsed_s - sum(known.values()))
