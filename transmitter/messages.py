"""Between the pipeline's plain values and the messages of `transmitter.proto`."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Final

import numpy as np

from shared.arrays import UInt8Array
from shared.errors import InvalidInputError
from shared.pictures import png_bytes
from shared.reports import Report
from shared.stubs.mmsc.v1 import channel_pb2, common_pb2, transmitter_pb2
from transmitter.budget import Budget
from transmitter.course import Ended, Replanned, Sent
from transmitter.pipeline import Job, PlanStage, RelevanceStage
from transmitter.planning import Plan
from transmitter.replanning import Reason
from transmitter.transport.contract import LinkEstimate
from transmitter.undertakings import Undertaking

_STRATEGIES: Final = {
    transmitter_pb2.ALLOCATION_UNSPECIFIED: "rate-distortion",
    transmitter_pb2.ALLOCATION_RATE_DISTORTION: "rate-distortion",
    transmitter_pb2.ALLOCATION_GREEDY: "greedy",
    transmitter_pb2.ALLOCATION_VIT_SC: "vit-sc",
}


_REASONS: Final = {
    Reason.LESS_ROOM: transmitter_pb2.REPLAN_REASON_LESS_ROOM,
    Reason.MORE_ROOM: transmitter_pb2.REPLAN_REASON_MORE_ROOM,
}
_ID: Final = re.compile("[0-9a-fA-F]{8}")


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
        time_s=options.deadline_s or None,
        open_loop=options.open_loop,
    )


def taken_up(options: transmitter_pb2.TransmitOptions) -> int | None:
    """The transmission that a request takes up again; None: it begins a new one.

    Raises:
        InvalidInputError: what is given is no transmission's id.
    """
    if not options.transmission_id:
        return None
    if not _ID.fullmatch(options.transmission_id):
        raise InvalidInputError(
            "options.transmission_id", f"{options.transmission_id[:40]!r} is not 8 hexadecimal digits"
        )
    return int(options.transmission_id, 16)


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
        level_map_png=png_bytes(_level_map(stage.plan)) if with_map else b"",
        spread_by_content=stage.spread_by_content,
        codec=stage.plan.codec.name,
        content_bytes=stage.plan.content_bytes,
    )


def _level_map(plan: Plan) -> UInt8Array:
    grid = plan.header.grid
    level_map: UInt8Array = plan.levels.reshape(grid.rows, grid.columns)
    return level_map


def _level_counts(plan: Plan) -> list[common_pb2.LevelCount]:
    sizes = zip(plan.codec.patch_bytes, plan.level_counts.tolist(), strict=True)
    return [
        common_pb2.LevelCount(level=level, patch_bytes=size, patches=count) for level, (size, count) in enumerate(sizes)
    ]


def progress_message(sent: Sent, elapsed_s: float) -> transmitter_pb2.Progress:
    """The event that tells how far a transmission has come."""
    return transmitter_pb2.Progress(
        sent_bytes=sent.sent_bytes,
        departed_bytes=sent.departed_bytes,
        elapsed_s=elapsed_s,
        acknowledged_bytes=sent.acknowledged_bytes,
        estimate=estimate_message(sent.estimate),
    )


def replanned_message(replanned: Replanned, elapsed_s: float, *, with_map: bool) -> transmitter_pb2.Replanned:
    """The event that tells of a plan made anew."""
    revised = replanned.revised
    return transmitter_pb2.Replanned(
        revision=revised.packed.number,
        reason=_REASONS[revised.reason],
        budget_bytes=revised.wanted.budget_bytes,
        wire_bytes=revised.plan.wire_bytes,
        levels=_level_counts(revised.plan),
        level_map_png=png_bytes(_level_map(revised.plan)) if with_map else b"",
        estimate=estimate_message(replanned.estimate),
        elapsed_s=elapsed_s,
    )


def estimate_message(link: LinkEstimate) -> transmitter_pb2.LinkEstimate:
    """What is believed of the link."""
    return transmitter_pb2.LinkEstimate(**asdict(link))


def delivered_message(undertaking: Undertaking, ended: Ended, elapsed_s: float) -> transmitter_pb2.Delivered:
    """The last event: what arrived, and where bytes and time went.

    Args:
        undertaking: what was sent.
        ended: how that ended.
        elapsed_s: from the request's arrival to now.
    """
    plan, report, stats = undertaking.stage, ended.report, ended.stats
    stages = stage_seconds(stats.sent_bytes, report, undertaking.link.settings, undertaking.stages_s, elapsed_s)
    return transmitter_pb2.Delivered(
        transmission_id=f"{report.transmission_id:08x}",
        outcome=common_pb2.Outcome.ValueType(report.outcome),
        budget_bytes=plan.budget_bytes,
        wire_bytes=stats.sent_bytes,
        received_bytes=report.received_bytes,
        sent_patches=int(np.count_nonzero(plan.replanner.levels)),
        received_patches=report.received_patches,
        elapsed_s=elapsed_s,
        stages=stages,
        link=undertaking.link,
        revisions=stats.revisions,
        again_bytes=stats.again_bytes,
        repair_bytes=stats.repair_bytes,
        poll_bytes=stats.poll_bytes,
        lost_packets=stats.lost_packets,
        dropped_patches=stats.dropped_patches,
        resumed=undertaking.course.resumed,
        deadline_met=ended.deadline_met,
        estimate=None if stats.estimate is None else estimate_message(stats.estimate),
    )


def stage_seconds(
    sent_bytes: int,
    report: Report,
    link: channel_pb2.LinkSettings,
    stages: Mapping[str, float],
    elapsed_s: float,
) -> transmitter_pb2.StageSeconds:
    """Splits the elapsed time into its stages; the overhead is what no stage explains."""
    known = {f"{name}_s": seconds for name, seconds in stages.items()}
    known["serialization_s"] = 8 * sent_bytes / link.rate_bps if link.rate_bps else math.nan
    known["propagation_s"] = 2 * link.propagation_s
    known["reconstruct_s"] = report.reconstruct_s
    return transmitter_pb2.StageSeconds(**known, overhead_s=elapsed_s - sum(known.values()))
