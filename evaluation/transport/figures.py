"""One transmission under each trace, as a picture: the link, what the sender made of it, and what was there in time.

```
rate of the link, what the sender believed, what the link was said to carry
bytes that the link could have brought, handed over, arrived; new plans
the photo │ of an oracle │ with feedback │ without
```
"""

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from channel_emulator.replay import shipped_trace
from evaluation.transport.experiment import UNLIMITED_BYTES
from evaluation.transport.photos import AskedPhoto
from evaluation.transport.scenarios import TRACE_SCENARIOS, TraceScenario, starts
from evaluation.transport.simulation import carried_bytes
from evaluation.transport.trials import Session, Trial, Wish
from shared.arrays import UInt8Array

_TRIED: Final = 12
_SIZE_IN: Final = (13.0, 9.5)
_DPI: Final = 100
_POINTS: Final = 400
_COLOURS: Final = {"link": "#b9c4cf", "sender": "#1f77b4", "arrived": "#2ca02c", "without": "#d62728"}


def draw_traces(photo: AskedPhoto, folder: Path) -> list[Path]:
    """Draws a typical transmission of each trace, with its longest deadline: the one in the middle of a dozen.

    Args:
        photo: what is sent.
        folder: where the PNGs go.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    longest = {scenario.trace: scenario for scenario in TRACE_SCENARIOS}
    for scenario in longest.values():
        trial, without = _typical(photo, scenario)
        paths.append(folder / f"transport_{scenario.trace}.png")
        draw(photo, scenario, trial, without, paths[-1])
    return paths


def _typical(photo: AskedPhoto, scenario: TraceScenario) -> tuple[Trial, Trial]:
    """With feedback and without, in the middle by the PSNR that feedback gains."""
    begins = starts(shipped_trace(scenario.trace), _TRIED, seed=1)
    tried = [[_transmitted(photo, scenario, start_s, closed=closed) for closed in (True, False)] for start_s in begins]
    tried.sort(key=lambda each: photo.shown_db(each[0].arrived) - photo.shown_db(each[1].arrived))
    trial, without = tried[_TRIED // 2]
    return trial, without


def _transmitted(photo: AskedPhoto, scenario: TraceScenario, start_s: float, *, closed: bool) -> Trial:
    session = Session(photo, scenario.settings)
    return session.transmit(Wish(UNLIMITED_BYTES, scenario.deadline_s, closed), start_s, seed=0)


def draw(photo: AskedPhoto, scenario: TraceScenario, trial: Trial, without: Trial, path: Path) -> None:
    """Draws one transmission with feedback beside the same without."""
    figure = Figure(figsize=_SIZE_IN, dpi=_DPI, facecolor="white", layout="constrained")
    rows = figure.add_gridspec(3, 4, height_ratios=(1, 1, 1.2))
    _draw_rates(figure.add_subplot(rows[0, :]), trial)
    _draw_bytes(figure.add_subplot(rows[1, :]), trial, without)
    for column, (name, picture) in enumerate(_pictures(photo, trial, without)):
        axes = figure.add_subplot(rows[2, column])
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(f"{name}, {photo.masked_db(picture):.1f} dB" if column else name, loc="left", fontsize=10)
    place = f"{scenario.trace} x {scenario.share:g}, from {trial.start_s:.1f} s of the trace"
    figure.suptitle(f"{photo.name}, {trial.wish.deadline_s:g} s, {place}", x=0.01, ha="left", fontsize=13)
    figure.savefig(path, dpi=_DPI)


def _pictures(photo: AskedPhoto, trial: Trial, without: Trial) -> list[tuple[str, UInt8Array]]:
    edge = photo.mask ^ (np.roll(photo.mask, 2, 0) & np.roll(photo.mask, 2, 1) & photo.mask)
    outlined = np.where(edge[:, :, None], np.array([255, 0, 0], np.uint8), photo.image)
    return [
        ("the photo, and what is asked for", outlined),
        (f"oracle, {trial.deliverable_bytes:,} bytes", photo.oracle_picture(trial.deliverable_bytes)),
        (f"with feedback, {trial.arrived_bytes:,} bytes", photo.shown(trial.arrived)),
        (f"without, {without.arrived_bytes:,} bytes", photo.shown(without.arrived)),
    ]


def _draw_rates(axes: Axes, trial: Trial) -> None:
    rate = trial.link.rate("forward", 0.0)
    times = np.linspace(0, _until(trial), _POINTS)
    step = times[1]
    carried = [rate.carried_bits(trial.start_s + at_s, trial.start_s + at_s + step) / step / 1e3 for at_s in times]
    axes.fill_between(times, carried, step="post", color=_COLOURS["link"], label="the link carries")
    believed = [(at_s - trial.start_s, rate_bps / 1e3) for at_s, rate_bps in trial.stats.rates_bps]
    if believed:
        axes.step(*zip(*believed, strict=True), where="post", color=_COLOURS["sender"], label="the sender believes")
    axes.axhline(trial.link.rate_bps / 1e3, color="black", ls=":", lw=1, label="the link is said to carry")
    _finish(axes, "kbit/s", trial)


def _draw_bytes(axes: Axes, trial: Trial, without: Trial) -> None:
    times = np.linspace(0, _until(trial), _POINTS)
    at_best = [carried_bytes(trial.link, trial.start_s, trial.start_s + at_s) for at_s in times]
    axes.fill_between(times, at_best, color=_COLOURS["link"], label="could have arrived")
    axes.step(*zip(*trial.outcome.departures, strict=True), where="post", color=_COLOURS["sender"], label="handed over")
    for each, colour, name in ((trial, "arrived", "arrived"), (without, "without", "arrived, without feedback")):
        at_s, sizes = zip(*each.outcome.arrivals or [(0.0, 0)], strict=True)
        axes.step(at_s, np.cumsum(sizes), where="post", color=_COLOURS[colour], label=name)
    for number, replanned in enumerate(trial.outcome.replanned):
        label = "new plan wanted" if not number else None
        axes.axvline(replanned.wanted_s, color=_COLOURS["sender"], ls="--", lw=0.8, label=label)
    axes.set_ylim(0, 1.1 * max(at_best[-1], 1))
    _finish(axes, "bytes", trial)


def _finish(axes: Axes, unit: str, trial: Trial) -> None:
    axes.axvline(trial.wish.deadline_s or 0, color="black", lw=1.2, label="deadline")
    axes.set_xlim(0, _until(trial))
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit)
    axes.set_xlabel("seconds from the start")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def _until(trial: Trial) -> float:
    return 1.25 * (trial.wish.deadline_s or trial.outcome.last_arrival_s)
