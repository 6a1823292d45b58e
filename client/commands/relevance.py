"""`mmsc relevance`: what of a picture matters to a question, without sending anything."""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from client.api import Client
from client.inputs import read_input, write_output
from client.params import access_options, checked_address
from client.progress import waiting
from client.runs import decode_grey
from shared.errors import InvalidInputError, WeightsError
from shared.options import access_of
from shared.pictures import png_bytes, read_picture
from shared.stubs.mmsc.v1 import transmitter_pb2
from transmitter.relevance.registry import DEFAULT_EXTRACTOR, EXTRACTORS, load_extractor, parse_options

_TIMEOUT_S = 120.0
_path = click.Path(path_type=Path)


@click.command()
@click.argument("image", type=_path)
@click.argument("query", default="")
@click.option("--out", type=_path, required=True, metavar="MAP.png", help="The map as a grey PNG, brighter is more.")
@click.option("--figure", type=_path, metavar="FIG.png", help="Also a heat map over the photo.")
@click.option("--local", is_flag=True, help="Computes in this process; so it does unless --transmitter is given.")
@click.option(
    "--transmitter", metavar="HOST:PORT", callback=checked_address, help="Has a running transmitter compute it."
)
@click.option(
    "--extractor",
    default="",
    metavar="NAME",
    help=f"Relevance extractor ({', '.join(EXTRACTORS)}).  [default: {DEFAULT_EXTRACTOR}, or the transmitter's]",
)
@click.option("--weights", type=_path, metavar="FILE", help="Its weights, where it is computed in this process.")
@click.option("--device", default="cpu", show_default=True, help="Where it computes in this process, like cuda.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="What else it lets one choose; repeatable."
)
@access_options()
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(image: Path, query: str, out: Path, figure: Path | None, *, as_json: bool, **where: Any) -> None:
    """Shows what in IMAGE matters to QUERY; nothing is sent over any channel.

    The map can be edited and given to `mmsc send --relevance`.
    """
    if where["local"] and where["transmitter"]:
        raise click.UsageError("--local and --transmitter exclude each other")
    for own, flag in (("weights", "--weights"), ("options", "--option")):
        if where[own] and where["transmitter"]:
            raise click.UsageError(f"{flag} and --transmitter exclude each other; a transmitter has its own")
    data = read_input(image, "image")
    picture = read_picture(data)
    with waiting() as wait:
        wait.say("computing the relevance")
        answer = (_remote if where["transmitter"] else _in_process)(data, query, where)
        write_output(out, answer.relevance_png, "--out")
        if figure is not None:
            from client.figures import overlay  # noqa: PLC0415 - matplotlib takes a second to import

            heat = overlay(picture, np.divide(decode_grey(answer.relevance_png), 255, dtype=np.float32))
            write_output(figure, png_bytes(heat), "--figure")
    _print(answer, out, as_json=as_json)


def _remote(data: bytes, query: str, where: dict[str, Any]) -> transmitter_pb2.RelevanceReady:
    with Client(transmitter=where["transmitter"], timeout_s=_TIMEOUT_S, access=access_of(where)) as client:
        return client.relevance(data, query, where["extractor"])


def _in_process(data: bytes, query: str, where: dict[str, Any]) -> transmitter_pb2.RelevanceReady:
    """What a transmitter would answer; torch is imported only here."""
    try:
        name, options = where["extractor"] or DEFAULT_EXTRACTOR, parse_options(where["options"])
        model = load_extractor(name, weights=where["weights"], device=where["device"], options=options)
    except WeightsError as error:
        raise InvalidInputError("--weights", str(error)) from error
    start_s = time.monotonic()
    found = model(read_picture(data), query)
    elapsed_s = time.monotonic() - start_s
    grey = np.rint(found.map * 255).astype(np.uint8)
    return transmitter_pb2.RelevanceReady(
        extractor=model.name,
        present=found.present,
        mean_relevance=float(found.map.mean()),
        elapsed_s=elapsed_s,
        relevance_png=png_bytes(grey),
    )


def _print(answer: transmitter_pb2.RelevanceReady, out: Path, *, as_json: bool) -> None:
    summary = {
        "extractor": answer.extractor,
        "present": answer.present,
        "mean_relevance": answer.mean_relevance,
        "elapsed_s": answer.elapsed_s,
        "relevance": str(out),
    }
    if as_json:
        click.echo(json.dumps(summary))
        return
    found = "" if answer.present else "; nothing of it found"
    click.echo(f"{out}: mean {answer.mean_relevance:.3f} by {answer.extractor} in {answer.elapsed_s:.2f} s{found}")
