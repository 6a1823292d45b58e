"""`mmsc evaluate relevance`: how well relevance maps find what a query names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from client.commands.evaluate import extra_packages
from client.inputs import prepare_directory
from shared.errors import InvalidInputError, WeightsError

if TYPE_CHECKING:
    from evaluation.relevance.run import Backend
    from transmitter.relevance import RelevanceExtractor

_path = click.Path(path_type=Path)


def _note(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.argument("dataset", type=_path)
@click.option("--json", "result", type=_path, required=True, metavar="F", help="Where the figures go.")
@click.option("--figures", type=_path, metavar="DIR", help="Also draws the best, the worst, and each category.")
@click.option("--annotations", type=_path, metavar="FILE", help="COCO's instances_*.json: DATASET is a COCO folder.")
@click.option(
    "--objects", type=click.IntRange(1, 2), default=2, show_default=True,
    help="What a COCO photo is asked for: its largest category, or its two largest.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Photos at most.  [default: all; 200 of a COCO folder]")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the photos of a COCO folder.")
@click.option("--extractor", default="embedded", show_default=True, metavar="NAME", help="What is measured.")
@click.option("--weights", type=_path, metavar="FILE", help="Its weights file.  [default: the shipped one]")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="What else it lets one choose; repeatable."
)
@click.option("--device", default="cpu", show_default=True, help="Where it computes, like cuda.")
@click.option("--synonyms", type=_path, metavar="FILE", help="{name: [phrase, ...]}.  [default: those of COCO's names]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Photos scored at a time.")
@click.option("--restart", is_flag=True, help="Forgets what an interrupted run left.")
def command(dataset: Path, result: Path, figures: Path | None, *, restart: bool, **settings: Any) -> None:
    """Scores the relevance maps of every photo of DATASET against its masks.

    An interrupted run is continued by the same command.
    """
    with extra_packages():
        _evaluate(dataset, result, figures, settings, restart=restart)


def _evaluate(folder: Path, result: Path, figures: Path | None, settings: dict[str, Any], *, restart: bool) -> None:
    # Imported here, so that the help needs neither torch nor what only measuring needs.
    from evaluation.datasets import open_dataset  # noqa: PLC0415
    from evaluation.relevance.report import markdown  # noqa: PLC0415
    from evaluation.relevance.run import Backend, Job, evaluate, identity_of  # noqa: PLC0415
    from evaluation.relevance.synonyms import load_synonyms  # noqa: PLC0415

    chosen = {name: settings[name] for name in ("annotations", "limit", "objects", "seed")}
    data = open_dataset(folder, **chosen)
    prepare_directory(result.parent, "--json")
    if figures is not None:
        prepare_directory(figures, "--figures")
    backend = Backend(settings["extractor"], settings["weights"], settings["device"], settings["options"])
    job = Job(data, backend, load_synonyms(settings["synonyms"]))
    extractor = _loaded(backend)
    report = evaluate(job, extractor, identity_of(backend), result, _note, processes=settings["jobs"], restart=restart)
    click.echo(markdown(report["mean"], report["dataset"]["counts"], report["per_category"]))
    if figures is not None:
        from evaluation.relevance.figures import draw  # noqa: PLC0415 - matplotlib takes a second to import

        draw(data, report["images"], report["per_category"], extractor, figures)


def _loaded(backend: "Backend") -> "RelevanceExtractor":
    try:
        return backend()
    except WeightsError as error:
        raise InvalidInputError("--weights", str(error)) from error
