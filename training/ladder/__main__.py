"""Trains the ladder codec and the restoration: `python -m training.ladder --data ../shared/data --out models/`."""

import time
from pathlib import Path

import click
import torch

from training.ladder.codec import train_ladder
from training.ladder.data import load_photos
from training.ladder.restoration import RestorationSettings, train_restoration


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--out", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--only", type=click.Choice(["all", "codec", "restoration"]), default="all", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=RestorationSettings.steps, show_default=True, help="Of the restoration network.")
@click.option("--threads", default=1, show_default=True, help="Processor threads.")
def main(*, data: Path, out: Path, only: str, seed: int, steps: int, threads: int) -> None:
    """Trains ladder.safetensors, then restoration.safetensors, which learns to repair what the first decodes."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    start = time.monotonic()

    def log(line: str) -> None:
        click.echo(f"{time.monotonic() - start:7.1f} s  {line}")

    photos = load_photos(data)
    if only != "restoration":
        train_ladder(photos, out, seed, log)
    if only != "codec":
        train_restoration(photos, out, seed, log, RestorationSettings(steps=steps))


if __name__ == "__main__":
    main()
