"""`python -m evaluation.bench.transport`: the transport as its users meet it, in virtual time.

Transmissions of photos with the real codec over the emulated link: how long delivery takes at constant rates, what
is there at deadlines under the shipped traces, and what losses cost; each with feedback and without. Virtual time
makes the figures independent of this machine's speed. PSNR is that of the region that was asked for, capped at 60 dB
where it is exact; a transmission without a picture counts as one of mid-grey.
"""

import argparse
import json
import os
from pathlib import Path

# As the services do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.progress import Progress

from evaluation.bench.checks import OUT, Check, save, show
from evaluation.transport import report
from evaluation.transport.experiment import Row, Task, deadline_tasks, loss_tasks, rate_tasks
from evaluation.transport.figures import draw_traces
from evaluation.transport.photos import AskedPhoto
from evaluation.transport.running import PhotoSource, run_all
from evaluation.transport.scenarios import TRACES
from shared.packets import DEFAULT_PACKET_BYTES

KINDS = ("rate", "deadline", "loss")


def main() -> None:
    """Measures, prints and writes out/bench/transport.json and, transmission by transmission, transport_rows.json."""
    options = _options()
    source = PhotoSource(options.photos, options.data)
    photos = source.load()
    rows = _measured(_tasks(options, photos), source, options.jobs)
    checks = [*_tabled(rows), report.budget_check(rows), report.end_check(rows)]
    show("transport", checks)
    save(OUT / "transport.json", checks)
    (OUT / "transport_rows.json").write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")
    if options.figures is not None:
        draw_traces(photos[-1], options.figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench.transport")
    parser.add_argument("--photos", type=int, default=3, help="how many photos are sent")
    parser.add_argument("--data", type=Path, help="dataset of the photos; without one, scikit-image's three samples")
    parser.add_argument("--sessions", type=int, default=3, help="of four transmissions, per trace, deadline, photo")
    parser.add_argument("--loss-sessions", type=int, default=1, help="of three transmissions, per case and photo")
    parser.add_argument(
        "--packet-bytes", type=int, default=DEFAULT_PACKET_BYTES, help="largest packet on links with losses"
    )
    parser.add_argument("--only", choices=KINDS, action="append", help="measure no more than this; may be repeated")
    parser.add_argument("--trace", choices=TRACES, action="append", default=[], help="no other trace; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--figures", type=Path, help="folder for a picture of one transmission per trace")
    return parser.parse_args()


def _tasks(options: argparse.Namespace, photos: list[AskedPhoto]) -> list[Task]:
    tasks = {
        "rate": lambda: rate_tasks(photos),
        "deadline": lambda: deadline_tasks(photos, options.sessions, options.trace),
        "loss": lambda: loss_tasks(photos, options.loss_sessions, options.packet_bytes),
    }
    return [task for kind in options.only or KINDS for task in tasks[kind]()]


def _measured(tasks: list[Task], source: PhotoSource, jobs: int) -> list[Row]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("transmissions", total=len(tasks))
        found = run_all(tasks, source, jobs, lambda done, _of: progress.update(bar, completed=done))
        return [row for rows in found for row in rows]


def _tabled(rows: list[Row]) -> list[Check]:
    """Prints the tables, and gives the checks."""
    checks: list[Check] = []
    console = Console(width=None if Console().is_terminal else 200)
    if of_rate := report.of_kind(rows, "rate"):
        checks += report.rate_checks(of_rate)
    if of_deadlines := report.of_kind(rows, "deadline"):
        console.print(report.deadline_table(of_deadlines))
        checks += report.deadline_checks(of_deadlines)
    if of_losses := report.of_kind(rows, "loss"):
        console.print(report.loss_table(of_losses))
        checks += report.loss_checks(of_losses)
    return checks


if __name__ == "__main__":
    main()
