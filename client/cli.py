"""`mmsc`: sends the part of a picture that matters to a question over a link too thin for the whole picture.

Whatever goes wrong is one line on standard error: exit code 2 where the input was at fault, 1 where a service
was, 130 after Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final, NoReturn

import click

from client.lazy import LazyGroup
from shared.errors import InvalidInputError, MmscError, UnauthenticatedError

_OK, _FAILED, _BAD_INPUT, _INTERRUPTED, _TERMINATED = 0, 1, 2, 130, 143

_COMMANDS: Final = {
    "send": "Sends a picture and shows what the receiver got.",
    "relevance": "Shows what of a picture matters to a question; nothing is sent.",
    "encode": "Writes a picture to a file of a given size, the bytes where a question looks.",
    "decode": "Turns such a file, or the beginning of one, into a PNG.",
    "demo": "Sends three sample photos at two link rates and compares with AVIF.",
    "up": "Runs the three services on this machine until Ctrl-C.",
    "channel": "Shows or changes the emulated link.",
    "weights": "Lists, fetches, converts and verifies weights of relevance extractors.",
    "evaluate": "Measures relevance or whole transmissions on an annotated dataset.",
}


@click.group(
    cls=LazyGroup,
    modules=_COMMANDS,
    prefix="client.commands.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mmsc", prog_name="mmsc")
def cli() -> None:
    """Sends the part of a picture that matters to a question over a link too thin for the whole picture.

    Try: mmsc send photo.jpg "traffic sign" --percent 2 --local
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: what follows `mmsc`; None takes them from `sys.argv`.

    Returns:
        The exit code; what went wrong has been said on standard error.
    """
    # gRPC's C core, which reads this when it is imported, would log connections between our lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        cli.main(args=arguments, prog_name="mmsc", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a person gets one line, no stack trace
        return _explained(error)
    return _OK


def _explained(error: BaseException) -> int:
    """Says in one line what went wrong; the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return _BAD_INPUT
    if isinstance(error, click.ClickException):
        return _say(error.format_message(), _BAD_INPUT)
    if isinstance(error, MmscError):
        at_fault = isinstance(error, InvalidInputError | UnauthenticatedError)
        return _say(str(error), _BAD_INPUT if at_fault else _FAILED)
    if isinstance(error, (click.exceptions.Abort, KeyboardInterrupt)):
        return _say("interrupted", _INTERRUPTED)
    if os.environ.get("MMSC_TRACEBACK"):
        raise error
    return _say(f"unexpected {type(error).__name__}: {error} (MMSC_TRACEBACK=1 shows where)", _FAILED)


def _say(message: str, code: int) -> int:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    click.echo(f"mmsc: {' '.join(lines) or 'failed'}", err=True)
    return code


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    # Unwinds the stack, so that services that were started here are stopped in order.
    raise SystemExit(_TERMINATED)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `mmsc` command: runs the command line and exits."""
    signal.signal(signal.SIGTERM, _terminate)
    # A shell script starts its background jobs deaf to Ctrl-C; `mmsc up` must still stop in order.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
