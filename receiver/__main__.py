"""`python -m receiver`: runs the receiver until SIGTERM."""

import os

# Read when torch is loaded. Threads that spin while they wait make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Likewise. oneDNN keeps what it prepared for a layer and a size of picture, scratch memory included, in two caches of
# 1,024 each: 100 MB that mixed pictures fill over half an hour. To prepare it again takes next to no time.
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

import asyncio
import sys
from typing import Any

import click

from receiver.codecs import load_receivers
from receiver.config import ReceiverConfig
from receiver.server import receiver_service
from shared.errors import MmscError
from shared.heap import share_heaps
from shared.options import service_options, service_settings
from shared.service import serve_until_signal

_DEFAULT = ReceiverConfig()


@click.command(context_settings={"auto_envvar_prefix": "MMSC_RECEIVER", "show_default": True})
@click.option("--listen", default=_DEFAULT.listen, help="HOST:PORT of the gRPC server; port 0 picks a free one.")
@click.option("--metrics-listen", default=_DEFAULT.metrics_listen, help="HOST:PORT of /metrics; empty serves none.")
@click.option("--grace", type=click.FloatRange(0), default=_DEFAULT.grace_s, help="Seconds to drain after SIGTERM.")
@click.option(
    "--max-transmissions",
    type=click.IntRange(1),
    default=_DEFAULT.max_transmissions,
    help="Transmissions that are remembered.",
)
@click.option(
    "--max-stored-bytes",
    type=click.IntRange(1),
    default=_DEFAULT.max_stored_bytes,
    help="Memory for the transmissions and their encoded pictures.",
)
@click.option(
    "--threads", type=click.IntRange(0), default=_DEFAULT.threads, help="Threads of a reconstruction; 0: one per core."
)
@click.option("--store", default=_DEFAULT.store, help="Folder that keeps transmissions over a restart; none: memory.")
@click.option("--store-bytes", type=click.IntRange(1), default=_DEFAULT.store_bytes, help="Room for them on the disk.")
@click.option(
    "--store-age",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULT.store_age_s,
    help="Seconds after which a transmission is removed from the disk.",
)
@service_options(_DEFAULT.limits)
def main(*, grace: float, store_age: float, **settings: Any) -> None:
    """Rebuilds pictures from the packets that come through the channel."""
    share_heaps()
    try:
        config = ReceiverConfig(grace_s=grace, store_age_s=store_age, **service_settings(settings), **settings)
        service = receiver_service(config, load_receivers())
        asyncio.run(serve_until_signal(service, "receiver"))
    except MmscError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)  # some libraries' messages have several lines
        sys.exit(2)


if __name__ == "__main__":
    main()
