"""`python -m evaluation.bench.transport`: the transport as its users meet it, in virtual time.

Transmissions of photos with the real codec over the emulated link: how long delivery takes at constant rates, what
is there at deadlines under the shipped traces, and what losses cost; each with feedback and without. Virtual time
makes the figures independent of this machine's speed. PSNR is that of the region that was asked for, capped at 60 dB
where it is exact; a transmission without a picture counts as one of mid-grey. A deadline is met when there is a
picture, and nothing is on the link after it. What is rare is counted in many more transmissions of a synthetic photo
(`evaluation.transport.synthetic`).
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# As the services do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console
from rich.progress import Progress

from evaluation.bench.checks import OUT, Check, save, show
from evaluation.transport import report
from evaluation.transport.experiment import SYNTHETIC, Row, Subjects, Task, deadline_tasks, loss_tasks, rate_tasks
from evaluation.transport.figures import draw_traces
from evaluation.transport.photos import AskedPhoto
from evaluation.transport.running import PhotoSource, run_all
from evaluation.transport.scenarios import TRACES
from evaluation.transport.synthetic import SyntheticPhoto
from shared.packets import DEFAULT_PACKET_BYTES

KINDS = ("rate", "deadline", "loss")

_WIDTH = 200  # of tables where nobody looks


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
    parser.add_argument("--photos", type=int, default=2, help="how many photos are sent")
    parser.add_argument("--data", type=Path, help="dataset of the photos; default: scikit-image's, at most three")
    parser.add_argument("--sessions", type=int, default=1, help="of four transmissions, per trace, deadline, photo")
    parser.add_argument("--loss-sessions", type=int, default=1, help="of three transmissions, per case and photo")
    parser.add_argument("--synthetic", type=int, default=60, help="sessions of the synthetic photo, likewise")
    parser.add_argument(
        "--packet-bytes", type=int, default=DEFAULT_PACKET_BYTES, help="largest packet on links with losses"
    )
    parser.add_argument("--only", choices=KINDS, action="append", help="measure no more than this; may be repeated")
    parser.add_argument("--trace", choices=TRACES, action="append", default=[], help="no other trace; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--figures", type=Path, help="folder for a picture of one transmission per trace")
    return parser.parse_args()


def _tasks(options: argparse.Namespace, photos: list[AskedPhoto]) -> list[Task]:
    real: Subjects = dict(enumerate(photos))
    synthetic: Subjects = {SYNTHETIC: SyntheticPhoto()}
    tasks: dict[str, Callable[[], Iterable[Task]]] = {
        "rate": lambda: rate_tasks(real),
        "deadline": lambda: (
            *deadline_tasks(real, options.sessions, options.trace),
            *deadline_tasks(synthetic, options.synthetic, options.trace),
        ),
        "loss": lambda: (
            *loss_tasks(real, options.loss_sessions, options.packet_bytes),
            *loss_tasks(synthetic, options.synthetic, options.packet_bytes),
        ),
    }
    return [task for kind in options.only or KINDS for task in tasks[kind]()]


def _measured(tasks: list[Task], source: PhotoSource, jobs: int) -> list[Row]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("transmissions", total=len(tasks))
        found = run_all(tasks, source, jobs, lambda done, _of: progress.update(bar, completed=done))
        return [row for rows in found for row in rows]


def _checks(kind: str, photos: list[Row], synthetic: list[Row]) -> Iterator[Check]:
    """What is rare is counted in all transmissions; quality under deadlines in those of photos, whose it is."""
    if kind == "loss":
        if photos or synthetic:
            yield report.picture_check([*photos, *synthetic])
        for found, of_what in ((photos, "photos"), (synthetic, "synthetic photo")):
            yield from report.loss_checks(found, of_what)
    elif photos:
        yield from report.met_checks([*photos, *synthetic])
        yield from report.quality_checks(photos)


def _tabled(rows: list[Row]) -> list[Check]:
    """Prints the tables, and gives the checks."""
    checks = [*report.rate_checks(report.of_kind(rows, "rate", synthetic=False))]
    console = Console(width=None if Console().is_terminal else _WIDTH)
    for kind, table in (("deadline", report.deadline_table), ("loss", report.loss_table)):
        for synthetic, of_what in ((False, "photos"), (True, "a synthetic photo")):
            if found := report.of_kind(rows, kind, synthetic=synthetic):
                console.print(table(found, of_what))
    for kind in ("deadline", "loss"):
        checks += _checks(kind, *(report.of_kind(rows, kind, synthetic=each) for each in (False, True)))
    return checks


if __name__ == "__main__":
    main()
