"""`python -m evaluation.maft_golden FILE --json F`: our MAFT+ against golden tensors of the original.

Prints the worst error per group of tensors; exits with 1 where one is out of tolerance, with 2 where the file is none.
"""

from pathlib import Path

import click
import torch

from evaluation.bench.checks import Check, save, show
from evaluation.maft_golden.compare import check_forward, check_inference
from evaluation.maft_golden.forward import INPUTS, TRAINING, forward_tensors, inference_tensors
from evaluation.maft_golden.golden import Golden, read_golden
from evaluation.maft_golden.training import training_checks
from shared.errors import MmscError


def forward_checks(golden: Golden) -> list[Check]:
    """The whole graph and the short way of inference on the file's pictures and texts."""
    expected = {name: value for name, value in golden.tensors.items() if not name.startswith((*INPUTS, *TRAINING))}
    model = golden.model()
    whole = check_forward(forward_tensors(model, golden), expected)
    return [*whole, *check_inference(inference_tensors(model, golden), expected)]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Where the checks go.")
def main(file: Path, json_path: Path | None) -> None:
    """Checks every tensor of FILE that our model computes, and the training step that it recorded."""
    # The tensors are tiny: more threads only add waiting.
    torch.set_num_threads(1)
    try:
        golden = read_golden(file)
        checks = [*forward_checks(golden), *training_checks(golden)]
    except MmscError as error:
        raise click.UsageError(str(error)) from error
    show(file.name, checks)
    if json_path:
        save(json_path, checks)
    if not all(check.ok for check in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
