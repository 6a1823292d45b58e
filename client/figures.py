"""One picture per run: what was sent, why, what arrived, and what AVIF makes of the same bytes.

```
original        relevance       level map
received        AVIF            bytes by level, seconds by stage
```
"""

import warnings
from pathlib import Path
from typing import Final, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from PIL import Image

from client.avif import Yardstick
from client.quality import Quality
from client.requests import Transmission, clean_text
from client.runs import LOST, LOST_COLOUR, Run, level_colours, paint_levels, plain
from shared.arrays import Float32Array, UInt8Array
from shared.pictures import png_bytes
from shared.stubs.mmsc.v1 import transmitter_pb2

WIDTH_IN: Final = 15.0
"""Width of a figure in inches; DPI of these are pixels."""

DPI: Final = 100
"""Pixels per inch."""

_SHOWN_SIDE = 1_000
_MARGINS_IN = 2.3
_PANEL_IN = 4.6
_LEAST_ASPECT, _GREATEST_ASPECT = 0.55, 1.45
_ROW_IN, _SECONDS_IN = 0.25, 1.25
_GREY = "#667080"
_INK = "#15202b"
_HEAT = "inferno"
_STAGE_COLOURS = {
    "relevance": "#8e44ad",
    "encode": "#2e86c1",
    "allocate": "#17a589",
    "pack": "#7dcea0",
    "serialization": "#f39c12",
    "propagation": "#f7dc6f",
    "reconstruct": "#c0392b",
    "decode": "#95a5a6",
    "overhead": "#d5d8dc",
}

_Row: TypeAlias = tuple[str, int | None, str]


def draw_run(run: Run, measured: Yardstick, path: Path) -> None:
    """Draws one run.

    Args:
        run: a run that has a picture.
        measured: the original as AVIF in no more bytes than the run took.
        path: the PNG file to write, WIDTH_IN * DPI pixels wide.
    """
    height, width = run.original.shape[:2]
    aspect = float(np.clip(height / width, _LEAST_ASPECT, _GREATEST_ASPECT))
    size_in = (WIDTH_IN, 2 * _PANEL_IN * aspect + _MARGINS_IN)
    figure = Figure(figsize=size_in, dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        2, 3, left=0.02, right=0.98, bottom=0.25 / size_in[1], top=1 - 1.35 / size_in[1], wspace=0.06,
        hspace=0.55 / (_PANEL_IN * aspect),
    )  # fmt: skip
    _write_title(figure, run, size_in[1])
    _draw_pictures(figure, grid, run)
    _draw_avif(figure.add_subplot(grid[1, 1]), run, measured)
    _draw_accounts(figure, grid[1, 2], run)
    with warnings.catch_warnings():
        # A query in a script that the font lacks shows boxes, which is no reason to speak up.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(path, dpi=DPI)


def overlay(image: UInt8Array, relevance: Float32Array) -> UInt8Array:
    """A heat map over a photo: grey and dark where nothing matters, coloured and bright where it does.

    Args:
        image: (height, width, 3) RGB.
        relevance: (height, width), 0 to 1.

    Returns:
        (height, width, 3) RGB.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[:, :, None]
    # The palest end of the colours would wash out a photo that matters as a whole.
    heat = mpl.colormaps[_HEAT](0.85 * relevance)[:, :, :3].astype(np.float32) * 255
    strength = 0.35 + 0.2 * relevance[:, :, None]
    blended: UInt8Array = np.rint(grey * (1 - strength) + heat * strength).astype(np.uint8)
    return blended


def draw_relevance(image: UInt8Array, relevance: Float32Array, path: Path) -> None:
    """Writes the heat map over the photo as a PNG of the photo's own size."""
    path.write_bytes(png_bytes(overlay(image, relevance)))


def _write_title(figure: Figure, run: Run, height_in: float) -> None:
    plan, delivered = run.transmission.plan, run.transmission.delivered
    link = delivered.link.settings
    query = _shortened(run.question.query) or "whatever is salient"
    title = f"“{query}”: {delivered.wire_bytes:,} bytes over {_rate(link.rate_bps)} in {delivered.elapsed_s:.2f} s"
    facts = [
        _shortened(run.question.name),
        f"{plan.width} × {plan.height}",
        f"{100 * delivered.wire_bytes / run.original.nbytes:.2g} % of the raw {run.original.nbytes:,} bytes",
        f"budget {plan.budget_bytes:,} bytes",
        f"{link.propagation_s * 1000:.0f} ms each way",
        f"{100 * link.loss_rate:g} % loss",
        *_happened(run.transmission),
        run.transmission.outcome,
    ]
    figure.text(0.02, 1 - 0.25 / height_in, title, fontsize=19, weight="bold", color=_INK, va="top")
    figure.text(0.02, 1 - 0.66 / height_in, "  ·  ".join(facts), fontsize=11.5, color=_GREY, va="top")


def _happened(sent: Transmission) -> list[str]:
    """What the sender did about losses and time, as far as there was anything."""
    delivered = sent.delivered
    found = [f"{delivered.lost_packets} packets lost"] if delivered.lost_packets else []
    if sent.replanned:
        found.append(f"planned anew × {len(sent.replanned)}")
    if delivered.HasField("deadline_met"):
        found.append("deadline met" if delivered.deadline_met else "deadline missed")
    return found


def _draw_pictures(figure: Figure, grid: GridSpec, run: Run) -> None:
    assert run.picture is not None
    assert run.quality is not None
    relevance = run.transmission.relevance
    found = "" if relevance.present else ", nothing of it found"
    heat = overlay(run.original, run.relevance)
    received = f"{run.transmission.delivered.wire_bytes:,} bytes, {_decibels(run.quality)}"
    _show(figure.add_subplot(grid[0, 0]), run.original, "Original", f"{run.original.nbytes:,} bytes raw")
    _show(figure.add_subplot(grid[0, 1]), heat, "Relevance", f"by {relevance.extractor}{found}")
    levels = "brighter is finer; legend below"
    _show(figure.add_subplot(grid[0, 2]), paint_levels(run), "Level of each patch", levels, exact=True)
    _show(figure.add_subplot(grid[1, 0]), run.picture, "Received", received)


def _draw_avif(axes: Axes, run: Run, measured: Yardstick) -> None:
    size_bytes = len(measured.avif.data)
    if measured.avif.fits:
        spared = ", none of them lost" if run.transmission.delivered.link.settings.loss_rate else ""
        title, size = f"AVIF in the same bytes{spared}", f"{size_bytes:,} bytes"
    else:
        times = size_bytes / run.transmission.delivered.wire_bytes
        title, size = "AVIF at its smallest", f"{size_bytes:,} bytes ({times:.1f} times ours)"
    _show(axes, measured.pixels, title, f"{size}, {_decibels(measured.quality)}")


def _show(axes: Axes, image: UInt8Array, title: str, note: str, *, exact: bool = False) -> None:
    """One panel; `exact` keeps hard edges where averaging would invent colours."""
    shown = Image.fromarray(image)
    filters = Image.Resampling
    shown.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), filters.NEAREST if exact else filters.LANCZOS)
    axes.imshow(np.asarray(shown), interpolation="nearest" if exact else "antialiased")
    axes.set_axis_off()
    axes.set_anchor("NW")
    _head(axes, title, raised_points=20)
    axes.annotate(note, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=10.5, color=_GREY)


def _head(axes: Axes, title: str, raised_points: float = 6) -> None:
    place = (0, raised_points)
    axes.annotate(title, (0, 1), place, "axes fraction", "offset points", fontsize=13, weight="bold", color=_INK)


def _draw_accounts(figure: Figure, cell: SubplotSpec, run: Run) -> None:
    """The sixth panel: the legend of the level map with its bytes, and the seconds, sized in inches."""
    box, (_, height_in) = cell.get_position(figure), figure.get_size_inches()
    rows = _byte_rows(run)
    row_in = min(_ROW_IN, (box.height * height_in - _SECONDS_IN) / len(rows))

    def axes(top_in: float, tall_in: float) -> Axes:
        bottom = box.y1 - (top_in + tall_in) / height_in
        return figure.add_axes((box.x0, bottom, box.width, tall_in / height_in))

    bars_in = row_in * len(rows)
    _draw_bytes(axes(0, bars_in), rows)
    _draw_seconds(axes(bars_in + 0.42, 0.2), run)


def _byte_rows(run: Run) -> list[_Row]:
    """Label, bytes and colour of everything that crossed the channel."""
    plan, delivered = run.transmission.plan, run.transmission.delivered
    more = [
        ("sent again", delivered.again_bytes, "#b9770e"),
        ("repairs, copies", delivered.repair_bytes, "#9c640c"),
        ("questions", delivered.poll_bytes, "#6e2c00"),
    ]
    more_bytes = sum(size for _, size, _ in more)
    if run.transmission.replanned:
        rows: list[_Row] = _arrived_rows(run)
        rows.append((f"{delivered.revisions} plans, as sent", delivered.wire_bytes - more_bytes, "#7f8c9b"))
    else:
        rows = _level_rows(plan)
        rest = delivered.wire_bytes - more_bytes - plan.level_map_bytes - sum(size or 0 for _, size, _ in rows)
        rows += [("level map", plan.level_map_bytes, "#aab2bd"), ("headers, sketch", rest, "#d5dae0")]
    rows += [row for row in more if row[1]]
    lost = int((run.levels == LOST).sum())
    if lost:
        rows.append((f"{lost:,} patches lost", None, LOST_COLOUR))
    return rows


def _level_rows(plan: transmitter_pb2.PlanMade) -> list[_Row]:
    """A row per level, with its bytes where the level says what a patch takes; else one row of bytes for all."""
    coloured = list(zip(plan.levels, level_colours(len(plan.levels)), strict=True))
    if any(count.patch_bytes for count in plan.levels):
        return [
            (f"level {each.level}: {each.patch_bytes} B × {each.patches:,}", each.patch_bytes * each.patches, colour)
            for each, colour in coloured
        ]
    rows: list[_Row] = [(f"level {each.level}: {each.patches:,} patches", None, colour) for each, colour in coloured]
    return [*rows, ("patches", plan.content_bytes, "#7f8c9b")]


def _arrived_rows(run: Run) -> list[_Row]:
    """A row per level with the patches that arrived at it, of whichever plan."""
    colours = level_colours(len(run.transmission.plan.levels))
    counts = np.bincount(run.levels[run.levels != LOST], minlength=len(colours))
    numbered = enumerate(zip(counts, colours, strict=True))
    return [(f"level {level}: {count:,} patches", None, colour) for level, (count, colour) in numbered]


def _draw_bytes(axes: Axes, rows: list[_Row]) -> None:
    """Bars with a swatch before each label, so that a level without bytes has its colour in the legend too."""
    widest = max(size or 0 for _, size, _ in rows) or 1
    for place, (label, size, colour) in enumerate(rows):
        axes.barh(place, 0.045, left=0, height=0.62, color=colour, edgecolor=_GREY, linewidth=0.6)
        axes.text(0.065, place, label, va="center", fontsize=10.5, color=_INK)
        if size is not None:
            long = 0.36 * size / widest
            axes.barh(place, long, left=0.47, height=0.62, color=colour, linewidth=0)
            axes.text(0.485 + long, place, f"{size:,}", va="center", fontsize=10, color=_GREY)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_axis_off()
    _head(axes, "Where the bytes went")


def _draw_seconds(axes: Axes, run: Run) -> None:
    stages = {name.removesuffix("_s"): value for name, value in plain(run.transmission.delivered.stages).items()}
    left_s, total_s = 0.0, sum(stages.values()) or 1.0
    for name, colour in _STAGE_COLOURS.items():
        label = f"{name} {stages[name]:.2f}" if stages[name] / total_s >= 0.005 else None
        axes.barh(0, stages[name], left=left_s, color=colour, height=0.8, label=label)
        left_s += stages[name]
    axes.set_xlim(0, total_s)
    axes.set_ylim(-0.4, 0.4)
    axes.set_axis_off()
    _head(axes, "Where the seconds went")
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.01, -0.15), ncols=3, frameon=False, fontsize=9.5,
        handlelength=0.9, columnspacing=1.1, borderpad=0, labelcolor=_INK,
    )  # fmt: skip


def _decibels(quality: Quality) -> str:
    shown = quality.to_json()
    whole = "exact" if shown["exact"] else f"{shown['psnr_db']:.1f} dB"
    masked = "exact" if shown["masked_exact"] else f"{shown['masked_psnr_db']:.1f} dB"
    return f"{whole}, {masked} where relevant"


def _rate(rate_bps: float) -> str:
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if rate_bps >= size:
            return f"{rate_bps / size:g} {unit}"
    return f"{rate_bps:g} bit/s"


def _shortened(text: str, limit: int = 48) -> str:
    """One line that fits, with `$` kept from meaning mathematics."""
    line = " ".join(clean_text(text).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    return line.replace("$", r"\$")
