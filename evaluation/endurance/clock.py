"""A wall clock that jumps, for processes that are started from now on. Their monotonic clock runs on as it did.

`clock_jump.c` stands before the C library's clock: it is compiled on the spot, and needs a C compiler (`cc`).
"""

import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("clock_jump.c")
_OFFSET_BYTES: Final = 8


class JumpingClock:
    """How far the children's wall clock is off.

    Args:
        path: of the file that holds it, for them to read.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_OFFSET_BYTES))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _OFFSET_BYTES)
        self.offset_s = 0
        """Seconds by which their clock is ahead of the true one."""

    def set_to(self, offset_s: int) -> None:
        """Makes the clock jump."""
        self.offset_s = offset_s
        self._page[:] = offset_s.to_bytes(_OFFSET_BYTES, "little", signed=True)


def compiler() -> str:
    """The C compiler; empty where there is none."""
    return shutil.which("cc") or shutil.which("gcc") or ""


@contextmanager
def jumping_clock(folder: Path) -> Iterator[JumpingClock | None]:
    """Children that are started in the context have a clock that can jump; None where there is no compiler.

    Args:
        folder: for the library and the offset.
    """
    if not compiler():
        yield None
        return
    library, offset = folder / "clock_jump.so", folder / "clock_offset"
    command = [compiler(), "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)  # noqa: S603 - no shell, and our own source
    clock = JumpingClock(offset)
    added = {"LD_PRELOAD": str(library), "MMSC_CLOCK_OFFSET": str(offset)}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield clock
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
