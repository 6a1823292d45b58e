"""Runs a service as a child that never outlives its parent: `python -m client.supervised MODULE ARGUMENTS...`.

The parent holds the write end of the child's standard input. However the parent ends, SIGKILL included, the
system closes that end, and the child then asks itself to stop as SIGTERM would. This needs no process groups
that Ctrl-C might miss, and no platform's own death signal.
"""

import os
import runpy
import signal
import sys
import threading

_STDIN = 0


def _stop_with_parent() -> None:
    # os.read rather than sys.stdin: a thread blocked in a buffered reader breaks the interpreter's shutdown.
    while os.read(_STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Watches standard input, and becomes the named module."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
