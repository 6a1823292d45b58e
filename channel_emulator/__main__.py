"""`python -m channel_emulator`: runs the channel emulator until SIGTERM."""

import asyncio
from collections.abc import Callable
from typing import Any

import click

from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from channel_emulator.settings import LinkSettings
from shared.errors import InvalidInputError
from shared.heap import share_heaps
from shared.options import access_options, access_settings, service_options, service_settings
from shared.service import LINK_OPTIONS, running, serve_until_signal
from shared.telemetry import new_registry
from shared.tracing import tracer_for
from shared.units import parse_duration_s, parse_rate_bps

_DEFAULT = ChannelConfig()


class _Quantity(click.ParamType[float]):
    """A number with a unit."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads what was typed; defaults are numbers already."""
        if not isinstance(value, str):
            return float(value)
        try:
            return self._parse(value)
        except InvalidInputError as error:
            self.fail(error.description, param, ctx)


_RATE = _Quantity("rate", parse_rate_bps)
_DURATION = _Quantity("duration", parse_duration_s)


@click.command(context_settings={"auto_envvar_prefix": "MMSC_CHANNEL", "show_default": True})
@click.option("--listen", default=_DEFAULT.listen, help="HOST:PORT of the gRPC server.")
@click.option(
    "--metrics-listen", default="", show_default=False, help="HOST:PORT of the Prometheus page; none without it."
)
@click.option("--receiver", default=_DEFAULT.receiver, help="HOST:PORT of the receiver.")
@click.option("--rate", type=_RATE, default=_DEFAULT.link.rate_bps, help="Like 64kbit, 8Mbit, or bits per second.")
@click.option("--propagation", type=_DURATION, default=_DEFAULT.link.propagation_s, help="One way: 20ms, or seconds.")
@click.option("--queue-bytes", type=int, default=_DEFAULT.link.queue_bytes, help="Queue of each stream.")
@click.option("--loss-rate", type=float, default=_DEFAULT.link.loss_rate, help="Part of the packets lost, 0 to 1.")
@click.option("--seed", type=int, default=_DEFAULT.link.seed, help="Seeds the losses.")
@click.option("--grace", type=_DURATION, default=_DEFAULT.grace_s, help="Time to finish in after SIGTERM.")
@service_options(_DEFAULT.limits)
@access_options
def main(
    *,
    listen: str,
    metrics_listen: str,
    receiver: str,
    rate: float,
    propagation: float,
    queue_bytes: int,
    loss_rate: float,
    seed: int,
    grace: float,
    **settings: Any,
) -> None:
    """Emulates a thin link between a transmitter and the receiver.

    Every option can also come from the environment: MMSC_CHANNEL_RATE=64kbit.
    """
    share_heaps()
    try:
        link = LinkSettings(rate, propagation, queue_bytes, loss_rate, seed)
        common = {**service_settings(settings), "access": access_settings(settings)}
        asyncio.run(_serve(ChannelConfig(listen, metrics_listen, grace, receiver=receiver, link=link, **common)))
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from error


async def _serve(config: ChannelConfig) -> None:
    registry = new_registry("channel")
    tracer = tracer_for("channel", config.otlp)
    context = running(config, registry, channel_service(config), LINK_OPTIONS, tracer)
    await serve_until_signal(context, "channel")


if __name__ == "__main__":
    main(prog_name="channel_emulator")
