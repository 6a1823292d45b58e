"""Counts tables anew: `python -m training.entropy.recount --data DATA --weights FILE --out FILE`.

For when the lossy levels code residuals in another way, but foretell the same: transform and networks stay.
"""

from pathlib import Path
from typing import Final

import click

from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.transform import PatchTransform
from shared.codec.entropy.weights import LOSSY_FORMAT, save_lossy
from shared.errors import WeightsError
from shared.weights import Weights, read_weights
from training.entropy.counting import counted_model
from training.entropy.lossy import counted_photos
from training.ladder.data import load_photos

_FORMAT_BEFORE: Final = "mmsc-entropy-2"
"""Has the same transform and networks."""


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def main(data: Path, weights: Path, out: Path) -> None:
    """Counts the tables of a weights file anew."""
    found = _read(weights)
    networks = [PartNetwork.from_tensors(found.tensors, f"group{group}") for group in range(GROUPS)]
    photos = load_photos(data)
    model = counted_model(PatchTransform(found.tensors["basis"]), networks, counted_photos(photos), seed=0)
    kept = {name: value for name, value in found.settings.items() if name in {"cycles", "photos"}}
    save_lossy(out, model, kept)


def _read(path: Path) -> Weights:
    try:
        return read_weights(path, LOSSY_FORMAT)
    except WeightsError:
        return read_weights(path, _FORMAT_BEFORE)


if __name__ == "__main__":
    main()
