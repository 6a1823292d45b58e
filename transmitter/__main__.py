"""`python -m transmitter`: runs the transmitter service until SIGTERM."""

import os

# Read when torch is loaded. Patches are coded by threads of our own; a numerical library's beside them only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import asyncio
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from shared.codec.ladder import load_ladder
from shared.errors import MmscError
from shared.patches import split
from shared.service import serve_until_signal
from transmitter.config import TransmitterConfig
from transmitter.pipeline import Pipeline
from transmitter.relevance import load_embedded
from transmitter.server import transmitter

_DEFAULTS = TransmitterConfig()


@click.command(context_settings={"auto_envvar_prefix": "MMSC_TRANSMITTER", "show_default": True})
@click.option("--listen", default=_DEFAULTS.listen, help="HOST:PORT of the gRPC server; port 0 picks a free one.")
@click.option("--metrics-listen", default=_DEFAULTS.metrics_listen, help="HOST:PORT of the Prometheus page.")
@click.option("--channel", default=_DEFAULTS.channel, help="HOST:PORT of the channel that leads to the receiver.")
@click.option("--device", default=_DEFAULTS.device, help="Where relevance is computed: cpu, cuda, cuda:1...")
@click.option("--relevance-weights", type=click.Path(path_type=Path), help="Weights of the embedded extractor.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=_DEFAULTS.threads,
    help="Threads of one relevance map; patch coding uses all cores.",
)
@click.option("--jobs", type=click.IntRange(1), default=_DEFAULTS.jobs, help="Pictures worked on at once.")
@click.option("--grace", default=_DEFAULTS.grace_s, help="Seconds that RPCs may take to end after SIGTERM.")
@click.option("--stall-timeout", default=_DEFAULTS.stall_timeout_s, help="Seconds without progress.")
def main(relevance_weights: Path | None, grace: float, stall_timeout: float, **settings: Any) -> None:
    """Computes relevance, allocates the budget, encodes patches and streams them through the channel."""
    config = TransmitterConfig(grace_s=grace, stall_timeout_s=stall_timeout, **settings)
    torch.set_num_threads(config.threads)
    try:
        pipeline = _pipeline(relevance_weights, config.device)
        asyncio.run(serve_until_signal(transmitter(config, pipeline), "transmitter"))
    except MmscError as error:
        raise SystemExit(f"transmitter: {error}") from error


def _pipeline(relevance_weights: Path | None, device: str) -> Pipeline:
    """Loads the tools and runs each once, so that the first request is as fast as the next."""
    extractor = load_embedded(relevance_weights, device)
    pipeline = Pipeline(load_ladder(), {extractor.name: extractor})
    blank = np.zeros((64, 64, 3), np.uint8)
    extractor(blank, "warm up")
    pipeline.codec.encode(split(blank))
    return pipeline


if __name__ == "__main__":
    main()
