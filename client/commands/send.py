"""`mmsc send`: one picture through the channel, and what became of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from client.api import Budget, Client, Link, OnEvent, Options
from client.inputs import prepare_directory, read_input
from client.params import DURATION, RATE, SIZE, access_options, address_option, stacked
from client.progress import Waiting, rate_text, waiting
from client.requests import ALLOCATIONS, DEFAULT_PERCENT_OF_RAW
from client.runs import Question, Run, carry_out, to_json, write_json, write_pictures
from client.stack import LocalStack, StackConfig
from shared.codec.registry import CODECS
from shared.errors import DeadlineError, MmscError, StreamError, UnavailableError
from shared.options import access_of
from shared.packets import MAX_PACKET_BYTES, MIN_PACKET_BYTES
from shared.pictures import read_picture
from shared.stubs.mmsc.v1 import transmitter_pb2

_path = click.Path(path_type=Path)

_budget = stacked(
    click.option("--bytes", "wire_bytes", type=SIZE, help="Budget in bytes, everything counted."),
    click.option("--percent", type=float, help="Budget in percent of the raw size.  [default: 2]"),
    click.option("--deadline", type=DURATION, help="The picture must be there so soon after the first byte, like 2s."),
    click.option("--rate", type=RATE, help="Sets the link's bit rate first, like 64kbit."),
)
_how = stacked(
    click.option("--allocation", type=click.Choice(list(ALLOCATIONS)), default="rate-distortion", show_default=True),
    click.option("--codec", type=click.Choice(list(CODECS)), help="Patch codec.  [default: the transmitter's]"),
    click.option("--relevance", type=_path, metavar="MAP.png", help="Your own relevance map, grey, picture-sized."),
    click.option("--packet-bytes", type=click.IntRange(MIN_PACKET_BYTES, MAX_PACKET_BYTES)),
    click.option("--extractor", default="", metavar="NAME", help="Relevance extractor of the transmitter."),
    click.option(
        "--resume", default="", metavar="ID", help="Takes up a transmission that failed, asked for as it was."
    ),
    click.option("--open-loop", is_flag=True, help="Sends the plan as it is, whatever gets lost; for comparison."),
)
_where = stacked(
    click.option("--local", is_flag=True, help="Starts the three services for this one call."),
    address_option("transmitter"),
    address_option("channel"),
    address_option("receiver"),
    access_options(),
)
_results = stacked(
    click.option("--out", type=_path, metavar="DIR", help="Where the pictures go.  [default: out/IMAGE's name]"),
    click.option("--json", "as_json", is_flag=True, help="Prints one JSON object."),
    click.option("--figure/--no-figure", default=True, help="Draws figure.png (takes a second or two)."),
)


@click.command()
@click.argument("image", type=_path)
@click.argument("query", default="")
@_budget
@_how
@_where
@_results
def command(
    image: Path, query: str, out: Path | None, rate: float | None, *, as_json: bool, figure: bool, **given: Any
) -> None:
    """Sends IMAGE through the channel, spending the bytes on what matters to QUERY.

    Writes original.png, relevance.png, levels.png, reconstruction.png, figure.png and summary.json. Without a
    QUERY, whatever is salient matters.
    """
    question = _question(image, query, given)
    directory = prepare_directory(out or Path("out") / image.stem, "--out")
    with waiting() as wait:
        with _client(rate, given, wait) as client:
            wait.say("computing the relevance")
            with _told_how_to_go_on(wait.on_event, local=given["local"]) as on_event:
                run = carry_out(client, question, on_event)
        wait.say("drawing")
        summary = _written(run, directory, figure=figure)
    _print(summary, as_json=as_json)
    if run.picture is None:
        raise StreamError("the stream header was lost on the way, so that nothing can be shown")


@contextmanager
def _told_how_to_go_on(on_event: OnEvent, *, local: bool) -> Iterator[OnEvent]:
    """Has an error say under which id the transmission can be taken up, where it can; `local` services are gone."""
    under_way = ""

    def follow(event: transmitter_pb2.TransmitResponse) -> None:
        nonlocal under_way
        if event.HasField("plan"):
            under_way = event.plan.transmission_id
        elif event.HasField("delivered"):
            under_way = ""
        on_event(event)

    try:
        yield follow
    except (UnavailableError, DeadlineError) as error:
        if local or not under_way:
            raise
        raise type(error)(f"{error}; --resume {under_way} takes it up again") from error


def _question(image: Path, query: str, given: dict[str, Any]) -> Question:
    """Everything that can be wrong with the input is found here, before a service is started."""
    budget = _budget_of(given)
    data = read_input(image, "image")
    read_picture(data)
    own_map = given["relevance"]
    options = Options(
        allocation=given["allocation"],
        packet_bytes=given["packet_bytes"] or 0,
        codec=given["codec"] or "",
        extractor=given["extractor"],
        relevance_png=b"" if own_map is None else read_input(own_map, "--relevance"),
        deadline_s=given["deadline"] if budget.deadline_s is None else None,
        transmission_id=given["resume"],
        open_loop=given["open_loop"],
    )
    return Question(image.name, data, query, budget, options)


def _budget_of(given: dict[str, Any]) -> Budget:
    """Bytes if they are limited; a deadline alone is a budget itself."""
    named = {"--bytes": "wire_bytes", "--percent": "percent"}
    chosen = [option for option, name in named.items() if given[name] is not None]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are budgets; give one of them")
    if chosen:
        return Budget(given["wire_bytes"], given["percent"])
    return (
        Budget(percent_of_raw=DEFAULT_PERCENT_OF_RAW)
        if given["deadline"] is None
        else Budget(deadline_s=given["deadline"])
    )


@contextmanager
def _client(rate_bps: float | None, given: dict[str, Any], wait: Waiting) -> Iterator[Client]:
    """A client of the services named, or of services started for this call."""
    if not given["local"]:
        addresses = (given["transmitter"], given["channel"], given["receiver"])
        with Client(*addresses, access=access_of(given)) as client:
            if rate_bps is not None:
                client.set_link(Link(rate_bps=rate_bps))
            yield client
        return
    wait.say("starting the services")
    with LocalStack(StackConfig(link=Link(rate_bps=rate_bps))) as stack, stack.client() as client:
        try:
            yield client
        except MmscError:
            stack.check()  # a service that died says more than the call that failed for it
            raise


def _written(run: Run, directory: Path, *, figure: bool) -> dict[str, Any]:
    """Writes everything, and tells what and where."""
    files = write_pictures(run, directory)
    measured: dict[str, Any] = {}
    if figure and run.picture is not None:
        files["figure"] = str(directory / "figure.png")
        measured = _drawn(run, directory / "figure.png")
    summary = {**to_json(run), **measured, "reconstruction": files.get("reconstruction"), "files": files}
    write_json(directory / "summary.json", summary)
    return summary


def _drawn(run: Run, path: Path) -> dict[str, Any]:
    """Draws the figure, and tells what AVIF makes of the same bytes."""
    # matplotlib takes a second to import, which --no-figure and --help need not wait for.
    from client.avif import yardstick  # noqa: PLC0415
    from client.figures import draw_run  # noqa: PLC0415

    measured = yardstick(run)
    draw_run(run, measured, path)
    return measured.to_json()


def _print(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary, allow_nan=False))
        return
    table = Table(show_header=False, box=None)
    table.add_row("outcome", _outcome(summary))
    table.add_row("bytes", _bytes(summary))
    table.add_row("seconds", f"{summary['elapsed_s']:.3f}{_deadline(summary)}")
    table.add_row("link", _link(summary))
    table.add_row("quality", _quality(summary))
    sent = [f"{each['patches']:,} at level {each['level']}" for each in summary["levels"] if each["patches"]]
    table.add_row("patches", ", ".join(sent))
    for name, path in summary["files"].items():
        table.add_row(name, path)
    Console(soft_wrap=True).print(table)


def _outcome(summary: dict[str, Any]) -> str:
    found = "" if summary["present"] else ", nothing of it found"
    spread = ", bytes spread by content" if summary["spread_by_content"] else ""
    return f"{summary['outcome']}{found}{spread}"


def _bytes(summary: dict[str, Any]) -> str:
    parts = {"again": "again_bytes", "repair": "repair_bytes", "questions": "poll_bytes"}
    shown = ", ".join(f"{summary[name]:,} {word}" for word, name in parts.items() if summary[name])
    whole = f"{summary['wire_bytes']:,} of {summary['budget_bytes']:,}"
    return f"{whole} (of these {shown})" if shown else whole


def _deadline(summary: dict[str, Any]) -> str:
    met = summary["deadline_met"]
    return "" if met is None else ", deadline met" if met else ", deadline missed"


def _link(summary: dict[str, Any]) -> str:
    """What the sender found the link to be like, and what it did about it."""
    estimate, replans = summary["estimate"], len(summary["replanned"])
    found = [f"about {rate_text(estimate['rate_bps'])}" if estimate else "unknown"]
    if summary["lost_packets"]:
        found.append(f"{summary['lost_packets']:,} packets lost")
    if replans:
        found.append(f"planned anew {_times(replans)}")
    if summary["dropped_patches"]:
        found.append(f"{summary['dropped_patches']:,} patches given up")
    if summary["resumed"]:
        found.append(f"taken up again {_times(summary['resumed'])}")
    return ", ".join(found)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _quality(summary: dict[str, Any]) -> str:
    if summary["reconstruction"] is None:
        return "nothing to show"
    if summary["exact"]:
        return "exact"
    masked = "exact" if summary["masked_exact"] else f"{summary['masked_psnr_db']:.2f} dB"
    return f"{summary['psnr_db']:.2f} dB, {masked} where relevant"
