"""Rounds networks and counts tables anew: `python -m training.entropy.recount --data DATA --weights FILE --out FILE`.

For when the lossy levels carry their networks in other integers, or code residuals in another way, but foretell the
same: what was trained stays.
"""

from pathlib import Path
from typing import Final

import click
import numpy as np

from shared.arrays import AnyArray
from shared.codec.entropy.exact import ExactLayer, ExactNetwork, named_tensor
from shared.codec.entropy.part_network import PartNetwork
from shared.codec.entropy.schedule import GROUPS
from shared.codec.entropy.transform import PatchTransform
from shared.codec.entropy.weights import LOSSY_FORMAT, save_lossy
from shared.errors import WeightsError
from shared.weights import Weights, read_weights
from training.entropy.counting import counted_model
from training.entropy.lossy import counted_photos
from training.entropy.tables import exact_network, float_network
from training.ladder.data import load_photos

_FORMAT_BEFORE: Final = "mmsc-entropy-3"
"""Has the same transform and networks, these in integers that float64 carries."""


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
def main(data: Path, weights: Path, out: Path) -> None:
    """Rounds the networks of a weights file and counts its tables anew."""
    found = _read(weights)
    networks = [_rounded(found.tensors, group) for group in range(GROUPS)]
    photos = load_photos(data)
    model = counted_model(PatchTransform(found.tensors["basis"]), networks, counted_photos(photos), seed=0)
    kept = {name: value for name, value in found.settings.items() if name in {"cycles", "photos"}}
    save_lossy(out, model, kept)


def _read(path: Path) -> Weights:
    try:
        return read_weights(path, LOSSY_FORMAT)
    except WeightsError:
        return read_weights(path, _FORMAT_BEFORE)


def _rounded(tensors: dict[str, AnyArray], group: int) -> PartNetwork:
    """The network of a group, whatever integers it is in."""
    name = f"group{group}"
    first = ExactLayer(
        named_tensor(tensors, f"{name}.first.weights", np.int16, 2),
        named_tensor(tensors, f"{name}.first.bias", np.int64, 1),
        int(named_tensor(tensors, f"{name}.first.shift", np.int64, 1)[0]),
    )
    parts = int(named_tensor(tensors, f"{name}.parts", np.int64, 1)[0])
    heads = [ExactNetwork.from_tensors(tensors, f"{name}.head{number}") for number in range(parts)]
    return exact_network(float_network(first, heads, group))


if __name__ == "__main__":
    main()
