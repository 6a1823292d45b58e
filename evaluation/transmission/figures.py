"""Figures of a run: a curve per system over the budget, and strips of what arrived.

```
masked_psnr_db.png  masked_mse.png  psnr_db.png  ssim.png  relevance_l1.png  clip_score.png
strip_<photo>.png   original, relevance, levels, and what each system made of it at one budget
```
"""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from client.figures import overlay
from client.runs import level_colours
from evaluation.partial import Record
from evaluation.transmission.contract import Outcome
from evaluation.transmission.metrics import mean_squared_error, psnr_db
from evaluation.transmission.photo import Photo, Question
from evaluation.transmission.systems import System
from shared.arrays import UInt8Array
from shared.patches import PATCH_SIZE
from transmitter.relevance import Relevance

DPI: Final = 100
"""Pixels per inch of every figure."""

_CURVES: Final = {
    "masked_psnr_db": "PSNR of what the query asks for, dB",
    "masked_mse": "mean squared error of what the query asks for",
    "psnr_db": "PSNR of the whole photo, dB",
    "ssim": "SSIM of the whole photo",
    "relevance_l1": "L1 of the relevance maps before and after",
    "clip_score": "CLIP score of photo and query",
}
_LOGARITHMIC: Final = ("masked_mse",)
_CURVES_SIZE_IN: Final = (9.0, 5.6)
_PANEL_IN: Final = 3.6
_HEAD_IN: Final = 0.62
_COLUMNS: Final = 4
_GREY: Final = "#667080"
_INK: Final = "#15202b"
_DASHES: Final = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS: Final = "osD^vPX*"


def draw_curves(rows: Sequence[Record], directory: Path) -> list[Path]:
    """Draws each figure that the rows have over the budget.

    Args:
        rows: as in a result file.
        directory: where the PNGs go.

    Returns:
        The files written.
    """
    paths: list[Path] = []
    for name, label in _CURVES.items():
        if any(row[name] is not None for row in rows):
            path = directory / f"{name}.png"
            _draw_curve(rows, name, label, path)
            paths.append(path)
    return paths


def _draw_curve(rows: Sequence[Record], name: str, label: str, path: Path) -> None:
    figure = Figure(figsize=_CURVES_SIZE_IN, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    styles = _styles(list(dict.fromkeys(row["system"] for row in rows)))
    for system, (colour, marker, dashes) in styles.items():
        points = [(row["budget_percent"], row[name]) for row in rows if row["system"] == system]
        budgets, values = zip(*sorted(point for point in points if point[1] is not None), strict=True)
        axes.plot(budgets, values, color=colour, marker=marker, linestyle=dashes, label=system, markersize=4, lw=1.6)
    axes.set_xscale("log")
    ticks = sorted({row["budget_percent"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    if name in _LOGARITHMIC and all(row[name] for row in rows):
        axes.set_yscale("log")
    axes.set_xlabel("bytes on the channel, of the raw photo's")
    axes.set_title(label, loc="left", fontsize=11, color=_INK)
    axes.grid(color="#e3e7ec", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    figure.savefig(path, dpi=DPI)


def _styles(systems: Sequence[str]) -> dict[str, tuple[object, str, object]]:
    """Colour, marker and line of each system: a colour per codec, a line per source of relevance."""
    codecs = list(dict.fromkeys(system.rpartition(":")[2] for system in systems))
    sources = list(dict.fromkeys(["", *(system.rpartition(":")[0] for system in systems)]))
    colours = mpl.colormaps["tab10" if len(codecs) <= 10 else "tab20"]
    found: dict[str, tuple[object, str, object]] = {}
    for system in systems:
        source, _, codec = system.rpartition(":")
        place = codecs.index(codec)
        dashes = _DASHES[sources.index(source) % len(_DASHES)]
        found[system] = colours(place % colours.N), _MARKERS[place % len(_MARKERS)], dashes
    return found


@dataclass(frozen=True)
class Strip:
    """What every system made of one photo within one budget."""

    stem: str
    photo: Photo
    question: Question
    budget_percent: float
    budget_bytes: int
    relevance: tuple[System, Relevance] | None
    """The first system that uses any, and what it works with."""
    outcomes: tuple[tuple[System, Outcome], ...]


def draw_strip(strip: Strip, path: Path) -> None:
    """Draws the photo, what was relevant in it, the levels, and what arrived from each system."""
    image = strip.photo.image
    panels = [("original", f"{image.nbytes:,} bytes raw", image)]
    if strip.relevance is not None:
        user, relevance = strip.relevance
        note = f"of {user.name}" + ("" if relevance.present else ", nothing of it found")
        panels.append(("relevance", note, overlay(image, relevance.map)))
    panels += [_levels_panel(strip, system, outcome) for system, outcome in strip.outcomes if _first(strip, system)]
    panels += [_outcome_panel(strip, system, outcome) for system, outcome in strip.outcomes]
    _draw_panels(strip, panels, path)


def _first(strip: Strip, system: System) -> bool:
    """Whether this is the first system that has levels."""
    leveled = [each for each, outcome in strip.outcomes if outcome.levels is not None]
    return bool(leveled) and leveled[0] is system


def _levels_panel(strip: Strip, system: System, outcome: Outcome) -> tuple[str, str, UInt8Array]:
    assert outcome.levels is not None
    colours = level_colours(outcome.level_count)
    palette = np.array([list(bytes.fromhex(colour[1:])) for colour in colours], np.uint8)
    enlarged = palette[outcome.levels].repeat(PATCH_SIZE, axis=0).repeat(PATCH_SIZE, axis=1)
    height, width = strip.photo.image.shape[:2]
    return f"levels of {system.name}", "brighter is finer", enlarged[:height, :width]


def _outcome_panel(strip: Strip, system: System, outcome: Outcome) -> tuple[str, str, UInt8Array]:
    image = strip.photo.image
    masked = psnr_db(mean_squared_error(image, outcome.picture, strip.question.mask))
    whole = psnr_db(mean_squared_error(image, outcome.picture))
    size = f"{outcome.wire_bytes:,} bytes" + ("" if outcome.fits else " (over the budget)" * bool(outcome.wire_bytes))
    return system.name, f"{masked:.1f} dB of the query's, {whole:.1f} dB in all, {size}", outcome.picture


def _draw_panels(strip: Strip, panels: Sequence[tuple[str, str, UInt8Array]], path: Path) -> None:
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    height, width = strip.photo.image.shape[:2]
    panel_in = _PANEL_IN * float(np.clip(height / width, 0.4, 1.6)) + _HEAD_IN
    size_in = (columns * _PANEL_IN + 0.3, rows * panel_in + 0.55)
    figure = Figure(figsize=size_in, dpi=DPI, facecolor="white")
    query = textwrap.shorten(strip.question.query, 60, placeholder="…").replace("$", r"\$")
    title = f"“{query}” in {strip.budget_bytes:,} bytes, {strip.budget_percent:g} % of raw  ·  {strip.stem}"
    figure.text(0.15 / size_in[0], 1 - 0.32 / size_in[1], title, fontsize=13, weight="bold", color=_INK)
    for number, (name, note, picture) in enumerate(panels):
        row, column = divmod(number, columns)
        left = (0.15 + column * _PANEL_IN) / size_in[0]
        bottom = 1 - (0.45 + (row + 1) * panel_in) / size_in[1]
        place = (left, bottom, (_PANEL_IN - 0.12) / size_in[0], (panel_in - _HEAD_IN) / size_in[1])
        _show(figure.add_axes(place), name, note, picture)
    with warnings.catch_warnings():
        # A query in a script that the font lacks shows boxes, which is no reason to speak up.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(path, dpi=DPI)


def _show(axes: Axes, name: str, note: str, picture: UInt8Array) -> None:
    axes.imshow(picture, interpolation="antialiased")
    axes.set_axis_off()
    axes.set_anchor("SW")
    axes.annotate(name, (0, 1), (0, 18), "axes fraction", "offset points", fontsize=10.5, weight="bold", color=_INK)
    axes.annotate(note, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8.5, color=_GREY)
