"""`mmsc encode`: a picture as a file of a given size, its bytes where the question looks."""

import json
import time
from pathlib import Path
from typing import Any

import click

from client.files import EncodedFile, encode_exactly, encode_within
from client.inputs import read_input, write_output
from client.params import SIZE, stacked
from client.progress import waiting
from client.requests import clean_text
from shared.arrays import UInt8Array
from shared.codec.registry import CODECS, DEFAULT_CODEC
from shared.container import MAX_FILE_BYTES
from shared.errors import InvalidInputError
from shared.patches import PatchGrid
from shared.pictures import read_picture, read_relevance
from transmitter.budget import Budget
from transmitter.codecs import load_sender
from transmitter.pipeline import CLIENT_MAP, MAX_QUERY_CHARACTERS, StageClock, guiding_map
from transmitter.relevance.contract import Relevance
from transmitter.relevance.registry import DEFAULT_EXTRACTOR, load_extractor

_path = click.Path(path_type=Path)

_size = stacked(
    click.option("--bytes", "file_bytes", type=SIZE, help="Largest size of FILE, everything counted."),
    click.option("--percent", type=float, help="The same in percent of the raw size."),
    click.option("--lossless", is_flag=True, help="Exact, whatever size that takes."),
)


@click.command()
@click.argument("image", type=_path)
@click.argument("query", default="")
@click.option("--relevance", type=_path, metavar="MAP.png", help="Your own relevance map, grey, picture-sized.")
@_size
@click.option("--codec", type=click.Choice(list(CODECS)), default=DEFAULT_CODEC, show_default=True)
@click.option("-o", "out", type=_path, required=True, metavar="FILE", help="Where the file goes.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(
    image: Path, query: str, relevance: Path | None, codec: str, out: Path, *, as_json: bool, **size: Any
) -> None:
    """Writes IMAGE to FILE, spending the bytes on what matters to QUERY.

    Give one of --bytes, --percent and --lossless. A map given by --relevance takes the place of QUERY, and a mask
    of 0 and 255 is a map; without either, whatever is salient matters. With --lossless neither changes the file.
    Any beginning of FILE can be decoded.
    """
    given = [option for option, value in _named(size).items() if value]
    if len(given) != 1:
        raise click.UsageError(f"give one of --bytes, --percent and --lossless, not {' and '.join(given) or 'none'}")
    clock = StageClock(time.monotonic)
    with waiting() as wait:
        with clock.stage("read"):
            picture = read_picture(read_input(image, "image", MAX_FILE_BYTES))
            grid = PatchGrid.of(picture)
            limit_bytes = _limit_bytes(size, grid)
            found = None if relevance is None else _own_map(relevance, grid)
        if found is None and limit_bytes is not None:
            wait.say("computing the relevance")
            with clock.stage("relevance"):
                found = _asked(picture, query)
        wait.say("encoding")
        file = _encoded(picture, found, limit_bytes, codec, clock)
        write_output(out, file.data, "-o")
    summary = {
        "image": image.name,
        "query": clean_text(query),
        "codec": codec,
        "lossless": limit_bytes is None,
        "budget_bytes": limit_bytes,
        **_relevance_summary(found, DEFAULT_EXTRACTOR if relevance is None else CLIENT_MAP),
        **_file_summary(file, grid),
        "stages_s": {f"{stage}_s": seconds for stage, seconds in clock.seconds.items()},
        "file": str(out),
    }
    _print(summary, as_json=as_json)


def _named(size: dict[str, Any]) -> dict[str, bool]:
    return {
        "--bytes": size["file_bytes"] is not None,
        "--percent": size["percent"] is not None,
        "--lossless": bool(size["lossless"]),
    }


def _limit_bytes(size: dict[str, Any], grid: PatchGrid) -> int | None:
    """The file's largest size; None where it does not matter."""
    if size["lossless"]:
        return None
    if size["percent"] is not None:
        # There is no link whose rate would matter.
        return Budget("percent_of_raw", size["percent"]).wire_bytes(grid, rate_bps=0.0)
    return int(size["file_bytes"])


def _own_map(path: Path, grid: PatchGrid) -> Relevance:
    try:
        return Relevance(read_relevance(read_input(path, "--relevance", MAX_FILE_BYTES), grid), present=True)
    except InvalidInputError as error:
        raise InvalidInputError("--relevance", error.description) from error


def _asked(picture: UInt8Array, query: str) -> Relevance:
    """What the default extractor finds; torch is imported only here and with the codec."""
    return load_extractor(DEFAULT_EXTRACTOR)(picture, clean_text(query)[:MAX_QUERY_CHARACTERS])


def _encoded(
    picture: UInt8Array, found: Relevance | None, limit_bytes: int | None, name: str, clock: StageClock
) -> EncodedFile:
    with clock.stage("load"):
        codec = load_sender(name, "--codec")
    if limit_bytes is None or found is None:
        return encode_exactly(picture, codec, clock=clock)
    return encode_within(picture, guiding_map(found), codec, limit_bytes=limit_bytes, clock=clock)


def _relevance_summary(found: Relevance | None, source: str) -> dict[str, Any]:
    """Nulls where nobody asked: an exact file needs no relevance."""
    if found is None:
        return {"extractor": None, "present": None, "mean_relevance": None, "spread_by_content": False}
    return {
        "extractor": source,
        "present": found.present,
        "mean_relevance": float(found.map.mean()),
        "spread_by_content": not guiding_map(found).any(),
    }


def _file_summary(file: EncodedFile, grid: PatchGrid) -> dict[str, Any]:
    counts = file.plan.level_counts.tolist()
    levels = enumerate(zip(file.plan.codec.patch_bytes, counts, strict=True))
    return {
        "width": grid.width,
        "height": grid.height,
        "raw_bytes": grid.raw_bytes,
        "file_bytes": len(file.data),
        "level_map_bytes": len(file.plan.header.level_map),
        "content_bytes": file.plan.content_bytes,
        "levels": [{"level": level, "patch_bytes": size, "patches": count} for level, (size, count) in levels],
    }


def _print(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary, allow_nan=False))
        return
    budget = "" if summary["budget_bytes"] is None else f" of {summary['budget_bytes']:,}"
    share = 100 * summary["file_bytes"] / summary["raw_bytes"]
    patches = [f"{each['patches']:,} at level {each['level']}" for each in summary["levels"] if each["patches"]]
    found = "; nothing of it found" if summary["present"] is False else ""
    spread = "; bytes spread by content" if summary["spread_by_content"] else ""
    size = f"{summary['file_bytes']:,}{budget} bytes, {share:.2f} % of raw"
    click.echo(f"{summary['file']}: {size}; patches: {', '.join(patches)}{found}{spread}")
