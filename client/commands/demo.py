"""`mmsc demo`: the three real services over loopback, three photos, two link rates, AVIF beside each.

Writes one picture per run and report.json, and ends with a table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import skimage.data
from rich.console import Console
from rich.table import Table

from client.api import Budget, Client, Link, Options
from client.avif import yardstick
from client.figures import draw_run
from client.inputs import prepare_directory
from client.progress import Waiting, waiting
from client.runs import Question, carry_out, to_json, write_json, write_pictures
from client.stack import LocalStack
from shared.codec.registry import CODECS, DEFAULT_CODEC
from shared.errors import StreamError
from shared.pictures import png_bytes


@dataclass(frozen=True)
class _Rate:
    name: str
    rate_bps: float
    deadline_s: float
    """The budget is what the link carries in this time."""


_RATES: Final = (_Rate("64kbit", 64_000.0, 2.0), _Rate("1Mbit", 1_000_000.0, 0.4))
_SAMPLES: Final = (("astronaut", "astronaut"), ("chelsea", "cat"), ("coffee", "spoon"))
_TABLE_WIDTH: Final = 118


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), metavar="DIR", show_default=True)
@click.option("--codec", type=click.Choice(list(CODECS)), default=DEFAULT_CODEC, show_default=True)
def command(out: Path, codec: str) -> None:
    """Sends three sample photos at two link rates and compares with AVIF.

    Runs the three services as processes of their own on this machine, over loopback.
    """
    directory = prepare_directory(out, "--out")
    with waiting() as wait:
        wait.say("starting the three services")
        click.echo("Starting transmitter, channel emulator and receiver; importing torch takes most of the time.")
        with LocalStack() as stack, stack.client() as client:
            click.echo(f"transmitter {stack.transmitter} -> channel {stack.channel} -> receiver {stack.receiver}")
            runs = list(_runs(client, directory, codec, wait))
    write_json(directory / "report.json", {"runs": runs})
    Console(width=_TABLE_WIDTH).print(_table(runs))
    click.echo(f"One picture per run and report.json are in {directory}/.")


def _runs(client: Client, directory: Path, codec: str, wait: Waiting) -> Iterator[dict[str, Any]]:
    for rate in _RATES:
        client.set_link(Link(rate_bps=rate.rate_bps))
        for name, query in _SAMPLES:
            wait.say(f"{name} at {rate.name}")
            image = png_bytes(getattr(skimage.data, name)())
            question = Question(name, image, query, Budget(deadline_s=rate.deadline_s), Options(codec=codec))
            entry = _run(client, question, directory / f"{name}-{rate.name}", wait)
            click.echo(_line(entry, rate))
            yield entry


def _run(client: Client, question: Question, place: Path, wait: Waiting) -> dict[str, Any]:
    """One run: sent, measured, drawn to PLACE.png, its parts written to PLACE/."""
    run = carry_out(client, question, wait.on_event)
    if run.picture is None:
        raise StreamError(f"{question.name}: nothing arrived that could be shown")
    wait.say(f"drawing {question.name}")
    measured = yardstick(run)
    figure = place.with_suffix(".png")
    draw_run(run, measured, figure)
    files = {**write_pictures(run, prepare_directory(place, "--out")), "figure": str(figure)}
    return {**to_json(run), **measured.to_json(), "reconstruction": files["reconstruction"], "files": files}


def _line(entry: dict[str, Any], rate: _Rate) -> str:
    return (
        f"{entry['image']} at {rate.name}, asked for “{entry['query']}”: {entry['wire_bytes']:,} bytes, "
        f"{entry['elapsed_s']:.2f} s, {entry['outcome']}"
    )


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table(title="dB where relevant weights each pixel by the relevance map; AVIF 4:4:4, speed 6, whole picture")
    for heading in ("photo", "query", "link"):
        table.add_column(heading, no_wrap=heading != "query")
    for heading in ("bytes", "seconds", "dB whole", "dB where relevant", "AVIF bytes", "dB whole", "dB where relevant"):
        table.add_column(heading, justify="right")
    for entry in runs:
        table.add_row(
            entry["image"],
            entry["query"],
            f"{entry['link']['rate_bps'] / 1000:,.0f} kbit/s",
            f"{entry['wire_bytes']:,}",
            f"{entry['elapsed_s']:.2f}",
            *_decibels(entry, ""),
            f"{entry['avif_bytes']:,}",
            *_decibels(entry, "avif_"),
        )
    return table


def _decibels(entry: dict[str, Any], prefix: str) -> tuple[str, str]:
    """Whole, and where relevant."""
    whole = "exact" if entry[f"{prefix}exact"] else f"{entry[f'{prefix}psnr_db']:.1f}"
    masked = "exact" if entry[f"{prefix}masked_exact"] else f"{entry[f'{prefix}masked_psnr_db']:.1f}"
    return whole, masked
