"""`mmsc up`: the three services on this machine."""

from typing import Any

import click

from client.params import address_option, link_of, link_options
from client.progress import waiting
from client.stack import LocalStack, StackConfig


@click.command()
@link_options("Bit rate of the link at the start, like 64kbit.")
@address_option("transmitter")
@address_option("channel")
@address_option("receiver")
@click.option("--quiet", is_flag=True, help="Keeps the services' logs to itself.")
def command(transmitter: str, channel: str, receiver: str, *, quiet: bool, **link: Any) -> None:
    """Runs the three services on this machine until Ctrl-C.

    Prints where they listen; `mmsc send` finds them there by itself. Port 0 picks a free one.
    """
    config = StackConfig(transmitter, channel, receiver, link_of(link))
    with waiting() as wait:
        wait.say("starting the services")
        stack = LocalStack(config, None if quiet else _log)
    with stack:
        for name in ("transmitter", "channel", "receiver"):
            click.echo(f"{name:12}{getattr(stack, name)}")
        click.echo("Ctrl-C stops them.", err=True)
        try:
            stack.wait()
        except KeyboardInterrupt:
            click.echo("stopping", err=True)


def _log(service: str, line: str) -> None:
    click.echo(f"{service}: {line}", err=True)
