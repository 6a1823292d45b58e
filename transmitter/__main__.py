"""`python -m transmitter`: runs the transmitter service until SIGTERM."""

import os

# Read when torch is loaded. Patches are coded by threads of our own; a numerical library's beside them only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Likewise. oneDNN keeps what it prepared for a layer and a size of picture, scratch memory included, in two caches of
# 1,024 each: 100 MB that mixed pictures fill over half an hour. To prepare it again takes next to no time.
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

import asyncio
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch

from shared.codec.registry import CODECS
from shared.errors import InvalidInputError, MmscError
from shared.heap import share_heaps
from shared.options import access_options, access_settings, service_options, service_settings
from shared.packets import DEFAULT_PACKET_BYTES
from shared.service import serve_until_signal
from transmitter.codecs import load_sender
from transmitter.config import TransmitterConfig
from transmitter.pipeline import Pipeline
from transmitter.planning import PlanRequest
from transmitter.relevance import EXTRACTORS, load_extractor
from transmitter.relevance.registry import parse_named_options
from transmitter.server import transmitter

_DEFAULTS = TransmitterConfig()
_F = TypeVar("_F", bound=Callable[..., Any])
_WEIGHTS = {name: entry.weights_flag.removeprefix("--").replace("-", "_") for name, entry in EXTRACTORS.items()}


def _named(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """Names between commas, each once, in their order."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _weights_options(function: _F) -> _F:
    """The option of every extractor's weights file."""
    for entry in reversed(tuple(EXTRACTORS.values())):
        function = click.option(entry.weights_flag, type=click.Path(path_type=Path), help=entry.weights_help)(function)
    return function


@click.command(context_settings={"auto_envvar_prefix": "MMSC_TRANSMITTER", "show_default": True})
@click.option("--listen", default=_DEFAULTS.listen, help="HOST:PORT of the gRPC server; port 0 picks a free one.")
@click.option("--metrics-listen", default=_DEFAULTS.metrics_listen, help="HOST:PORT of the Prometheus page.")
@click.option("--channel", default=_DEFAULTS.channel, help="HOST:PORT of the channel that leads to the receiver.")
@click.option(
    "--extractors",
    default=",".join(_DEFAULTS.extractors),
    callback=_named,
    metavar="NAME,...",
    help=f"Relevance extractors to load, the first is the default; there are: {', '.join(EXTRACTORS)}.",
)
@click.option(
    "--codec", type=click.Choice(list(CODECS)), default=_DEFAULTS.codec, help="Codec of requests that name none."
)
@click.option("--device", default=_DEFAULTS.device, help="Where relevance is computed: cpu, cuda, cuda:1...")
@_weights_options
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Something else that an extractor lets one choose; may be repeated. An unknown KEY lists those there are.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=_DEFAULTS.threads,
    help="Threads of one relevance map; patch coding uses all cores.",
)
@click.option("--jobs", type=click.IntRange(1), default=_DEFAULTS.jobs, help="Pictures worked on at once.")
@click.option("--grace", default=_DEFAULTS.grace_s, help="Seconds that RPCs may take to end after SIGTERM.")
@click.option("--stall-timeout", default=_DEFAULTS.stall_timeout_s, help="Seconds without progress.")
@click.option(
    "--resume-s",
    type=click.FloatRange(0, 3_600),
    default=_DEFAULTS.resume_s,
    help="Seconds for which a stream that broke is opened again; 0: not at all.",
)
@service_options(_DEFAULTS.limits)
@access_options
def main(options: tuple[str, ...], grace: float, stall_timeout: float, **settings: Any) -> None:
    """Computes relevance, allocates the budget, encodes patches and streams them through the channel."""
    share_heaps()
    weights = {name: settings.pop(parameter) for name, parameter in _WEIGHTS.items()}
    try:
        common = {**service_settings(settings), "access": access_settings(settings)}
        config = TransmitterConfig(grace_s=grace, stall_timeout_s=stall_timeout, **common, **settings)
        torch.set_num_threads(config.threads)
        pipeline = _pipeline(config, weights, parse_named_options(options))
        runs = {"extractors": list(pipeline.extractors), "device": config.device}
        asyncio.run(serve_until_signal(transmitter(config, pipeline), "transmitter", runs))
    except MmscError as error:
        click.echo(f"transmitter: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def _pipeline(
    config: TransmitterConfig,
    weights: Mapping[str, Path | None],
    options: Mapping[str, Mapping[str, str]] = types.MappingProxyType({}),
) -> Pipeline:
    """Loads the tools and runs each once, so that the first request is as fast as the next."""
    if not config.extractors:
        raise InvalidInputError("extractors", f"names none; there are: {', '.join(EXTRACTORS)}")
    extractors = {
        name: load_extractor(name, device=config.device, weights=weights.get(name), options=options.get(name))
        for name in config.extractors
    }
    codecs = {name: load_sender(name) for name in dict.fromkeys((config.codec, *CODECS))}
    pipeline = Pipeline(codecs, extractors)
    blank = np.zeros((64, 64, 3), np.uint8)
    for extractor in extractors.values():
        extractor(blank, "warm up")
    for codec in codecs.values():
        codec.prepare(blank).plan(
            np.zeros(blank.shape[:2], np.float32), PlanRequest(blank.nbytes, DEFAULT_PACKET_BYTES)
        )
    return pipeline


if __name__ == "__main__":
    main()
