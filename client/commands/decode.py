"""`mmsc decode`: the picture of a file that `mmsc encode` wrote, or of as much of it as is there."""

import json
import time
from pathlib import Path
from typing import Any

import click

from client.files import DecodedFile, decode_file, stream_header
from client.inputs import read_input, write_output
from client.progress import Waiting, waiting
from receiver.codecs import load_receiver
from shared.codec.registry import codec_numbered
from shared.container import MAX_FILE_BYTES, read_frames
from shared.errors import InvalidInputError, StreamError
from shared.pictures import png_bytes
from transmitter.pipeline import StageClock

_path = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_path)
@click.option("-o", "out", type=_path, required=True, metavar="OUT.png", help="Where the picture goes, as a PNG.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(file: Path, out: Path, *, as_json: bool) -> None:
    """Writes the picture in FILE, which `mmsc encode` made, to OUT.png.

    A file that was cut off or damaged gives the best picture of what is left of it, and a warning; one without
    its header gives none.
    """
    data = read_input(file, "file", MAX_FILE_BYTES)
    clock = StageClock(time.monotonic)
    with waiting() as wait:
        try:
            decoded = _decoded(data, clock, wait)
        except StreamError as error:
            raise InvalidInputError("file", f"{file}: {error}") from error
        with clock.stage("png"):
            png = png_bytes(decoded.picture)
        write_output(out, png, "-o")
    if not decoded.complete:
        click.echo(f"mmsc: warning: {file} {_flaws(decoded)}", err=True)
    _print(_summary(decoded, len(data), clock, out), as_json=as_json)


def _decoded(data: bytes, clock: StageClock, wait: Waiting) -> DecodedFile:
    """Everything that can be wrong with the file but its weights is found before torch is imported."""
    wait.say("decoding")
    contents = read_frames(data)
    entry = codec_numbered(stream_header(contents).codec)
    with clock.stage("load"):
        codec = load_receiver(entry.name)
    return decode_file(contents, codec, clock)


def _flaws(decoded: DecodedFile) -> str:
    flaws = ["ends too early"] if decoded.cut else []
    flaws += [f"is damaged in {decoded.damages} places" if decoded.damages > 1 else "is damaged"] * bool(
        decoded.damages
    )
    return f"{' and '.join(flaws)}: {decoded.read_patches:,} of {decoded.expected_patches:,} patches read"


def _summary(decoded: DecodedFile, file_bytes: int, clock: StageClock, out: Path) -> dict[str, Any]:
    codec = codec_numbered(decoded.header.codec)
    levels = enumerate(zip(codec.patch_bytes, decoded.levels_planned, decoded.levels_read, strict=True))
    return {
        "codec": codec.name,
        "width": decoded.header.grid.width,
        "height": decoded.header.grid.height,
        "file_bytes": file_bytes,
        "complete": decoded.complete,
        "cut": decoded.cut,
        "damages": decoded.damages,
        "expected_patches": decoded.expected_patches,
        "read_patches": decoded.read_patches,
        "levels": [
            {"level": level, "patch_bytes": size, "patches": planned, "read": read}
            for level, (size, planned, read) in levels
        ],
        "stages_s": {f"{stage}_s": seconds for stage, seconds in clock.seconds.items()},
        "picture": str(out),
    }


def _print(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary, allow_nan=False))
        return
    size = f"{summary['width']}x{summary['height']}"
    read = f"{summary['read_patches']:,} patches read, the rest filled in" if summary["read_patches"] else "sketch only"
    click.echo(f"{summary['picture']}: {size} from {summary['file_bytes']:,} bytes; {read}")
