"""`mmsc weights`: which weights there are, getting them, and looking into them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.table import Table

from client.progress import waiting
from shared.errors import InvalidInputError, WeightsError
from shared.weights import sha256_of
from transmitter.relevance.catalogue import KNOWN, KnownWeights, known_weights, local_file, shipped_files

if TYPE_CHECKING:
    from transmitter.relevance.maft_plus.checkpoint import Checkpoint

_path = click.Path(path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
_variant = click.option(
    "--variant", default="", metavar="NAME", help="Refuses any other: large, base or panoptic-large.  [default: any]"
)
_TABLE_WIDTH: Final = 118


@click.group()
def command() -> None:
    """Lists, fetches, converts and verifies the weights of relevance extractors.

    Nothing in a weights file is ever executed.
    """


@command.command(name="list")
@click.option("--folder", type=_path, default=Path(), help="Where files got by hand are looked for.  [default: here]")
@_as_json
def list_(folder: Path, *, as_json: bool) -> None:
    """Shows which weights are here, and where the others come from."""
    with waiting() as wait:
        wait.say("hashing the files that are here")
        entries = [_shipped(path) for path in shipped_files()] + [_known(known, folder) for known in KNOWN]
    if as_json:
        click.echo(json.dumps({"weights": entries}))
        return
    Console(width=_TABLE_WIDTH).print(_table(entries))


@command.command()
@click.argument("name")
@_as_json
def fetch(name: str, *, as_json: bool) -> None:
    """Gets the weights NAME from the model hub into its cache.

    NAME is one that `mmsc weights list` shows, or ARCH/TAG of open_clip. Extractors find what the cache holds;
    HF_HOME and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
    """
    repository, files = _place(name)
    with waiting() as wait:
        wait.say(f"asking the hub for {repository}")
        # Imported here and below: torch and open_clip take seconds, which neither the help nor the list needs.
        from transmitter.relevance.files import from_hub  # noqa: PLC0415

        advice = "on a machine without network, put a copy of the file anywhere and give its path as --weights"
        entry = {"name": name, **_facts(from_hub(repository, files, advice))}
    _say(entry, f"{entry['path']}: {entry['bytes']:,} bytes, SHA-256 {entry['sha256']}", as_json=as_json)


@command.command()
@click.argument("source", metavar="IN", type=_path)
@click.argument("out", metavar="OUT.safetensors", type=_path)
@_variant
@_as_json
def convert(source: Path, out: Path, variant: str, *, as_json: bool) -> None:
    """Writes what inference needs of a MAFT+ checkpoint IN to OUT.safetensors.

    The teacher and the loss's buffer, of which training alone has use, are left out. The file's metadata says which
    model it is, and the name and SHA-256 of IN.
    """
    if out.suffix != ".safetensors":
        raise InvalidInputError("OUT", f"{out} does not end in .safetensors")
    with waiting() as wait:
        wait.say(f"reading {source}")
        from transmitter.relevance.maft_plus.checkpoint import write  # noqa: PLC0415

        checkpoint, facts = _verified(source, variant)
        wait.say(f"writing {out}")
        notes = {"source": source.name, "source_sha256": facts["sha256"]}
        try:
            write(out, checkpoint.state, checkpoint.config, notes)
        except WeightsError as error:
            raise InvalidInputError("OUT", str(error)) from error
        entry = {"variant": checkpoint.variant, "tensors": len(checkpoint.state), **_facts(out), "source": facts}
    text = f"{out}: MAFT+ {checkpoint.variant}, {entry['tensors']} tensors, {entry['bytes']:,} bytes"
    _say(entry, f"{text}, {checkpoint.left_out} left out, SHA-256 {entry['sha256']}", as_json=as_json)


@command.command()
@click.argument("file", type=_path)
@_variant
@_as_json
def verify(file: Path, variant: str, *, as_json: bool) -> None:
    """Says which MAFT+ a FILE holds, or what is wrong with it.

    Every key and shape is compared with the model's, and every value must be finite.
    """
    with waiting() as wait:
        wait.say(f"reading {file}")
        checkpoint, facts = _verified(file, variant)
    values = sum(value.numel() for value in checkpoint.state.values())
    entry = {
        "variant": checkpoint.variant,
        "tensors": len(checkpoint.state),
        "values": values,
        "left_out": checkpoint.left_out,
        **facts,
    }
    text = f"{file}: MAFT+ {checkpoint.variant}, {len(checkpoint.state)} tensors of {values:,} values, all finite"
    _say(entry, f"{text}, {checkpoint.left_out} others left out, SHA-256 {facts['sha256']}", as_json=as_json)


def _verified(path: Path, variant: str) -> "tuple[Checkpoint, dict[str, Any]]":
    """A checkpoint whose keys, shapes and values are in order, and what there is to say of its file."""
    from transmitter.relevance.files import check_finite  # noqa: PLC0415
    from transmitter.relevance.maft_plus.checkpoint import VARIANTS, read  # noqa: PLC0415

    if variant and variant not in VARIANTS:
        raise InvalidInputError("--variant", f"unknown {variant!r}; there are: {', '.join(VARIANTS)}")
    try:
        checkpoint = read(path, variant)
        check_finite(checkpoint.state, path)
        return checkpoint, _facts(path)
    except WeightsError as error:
        raise InvalidInputError("FILE", str(error)) from error


def _place(name: str) -> tuple[str, tuple[str, ...]]:
    """Repository and files of weights that the hub has."""
    known = known_weights(name)
    if known is not None and known.by_hand:
        reason = f"{name} is not on the model hub; get {known.files[-1]} by hand from {known.by_hand}"
        raise InvalidInputError("NAME", f"{reason}, and give its path as --weights")
    if known is not None:
        return known.repository, known.files
    if "/" not in name:
        names = ", ".join(each.name for each in KNOWN if each.repository)
        raise InvalidInputError("NAME", f"unknown {name!r}; there are: {names}, and ARCH/TAG of open_clip")
    from transmitter.relevance.open_clip_dense.weights import ModelChoice, hub_place  # noqa: PLC0415

    try:
        place = ModelChoice.parse(name).pretrained.get("hf_hub", "")
    except InvalidInputError as error:
        raise InvalidInputError("NAME", error.description) from error
    if not place:
        raise InvalidInputError("NAME", f"the model hub has no {name}")
    return hub_place(place)


def _shipped(path: Path) -> dict[str, Any]:
    return {"name": path.name, "serves": "ships with the project", "from": "", **_facts(path)}


def _known(known: KnownWeights, folder: Path) -> dict[str, Any]:
    path = local_file(known, folder)
    source = known.by_hand or f"mmsc weights fetch {known.name}"
    facts = _facts(path) if path is not None else {"path": None, "bytes": None, "sha256": None}
    return {"name": known.name, "serves": known.serves, "from": source, **facts}


def _facts(path: Path) -> dict[str, Any]:
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _table(entries: list[dict[str, Any]]) -> Table:
    table = Table("weights", "of", "bytes", "SHA-256, or where they come from", box=None)
    for entry in entries:
        here = entry["path"] is not None
        size, last = (f"{entry['bytes']:,}", entry["sha256"]) if here else ("absent", entry["from"])
        table.add_row(entry["name"], entry["serves"], size, last)
    return table


def _say(entry: dict[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(entry) if as_json else text)
