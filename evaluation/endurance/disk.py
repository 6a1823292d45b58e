"""A small disk of our own that can be filled: a tmpfs in a mount namespace, where the system allows one.

Elsewhere a file may not grow beyond a size (RLIMIT_FSIZE): what the receiver then meets is a disk that refuses, in
the midst of a write too, but without ENOSPC.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_FILLER: Final = "filler"
_MOUNT: Final = 'mount -t tmpfs -o size="$1",mode=0700 tmpfs "$0" && shift && exec "$@"'


class Disk:
    """What the receiver's store is on.

    Args:
        folder: the disk's root.
        own: whether it is a disk of our own, that may be filled.
    """

    def __init__(self, folder: Path, *, own: bool) -> None:
        self._filler = folder / _FILLER
        self._own = own
        self.store = folder / "store"
        """The receiver's folder."""
        self.name = "tmpfs" if own else "RLIMIT_FSIZE"
        """What a full disk is made of."""

    def fill(self, pid: int, room_bytes: int) -> None:
        """Leaves so much room, or no file to grow larger than that.

        Args:
            pid: of the receiver.
            room_bytes: at least 0.
        """
        if not self._own:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (room_bytes, hard))
            return
        with self._filler.open("ab") as file:
            size_bytes = _fill(file.fileno())
            file.truncate(max(size_bytes - room_bytes, 0))

    def free(self, pid: int) -> None:
        """There is room again."""
        if self._own:
            self._filler.unlink(missing_ok=True)
        else:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def _fill(file: int) -> int:
    """Takes all blocks that are free, though others take some meanwhile; gives the file's size."""
    status = os.statvfs(file)
    size_bytes, step = 0, status.f_bavail * status.f_frsize
    while step >= status.f_frsize:
        try:
            os.posix_fallocate(file, size_bytes, step)
            size_bytes += step
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            step //= 2
    return size_bytes


@contextmanager
def disk_at(folder: Path | None) -> Iterator[Disk]:
    """The disk that is mounted at a folder, unmounted at the end; without one, a folder for the time being."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Disk(Path(temporary), own=False)
        return
    try:
        yield Disk(folder, own=True)
    finally:
        subprocess.run(["umount", str(folder)], check=False)  # noqa: S603, S607 - our own words
        with suppress(OSError):
            folder.rmdir()


def can_mount() -> bool:
    """Whether a command can have a mount namespace with a tmpfs of its own."""
    if shutil.which("unshare") is None:
        return False
    command = [*_unshare(), "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0  # noqa: S603 - ours
    return False


def run_again_on_a_disk(folder: Path, size_bytes: int, arguments: Sequence[str]) -> None:
    """Becomes `python ARGUMENTS`, in a mount namespace where `folder` is a tmpfs; both end with the process."""
    mount = ["sh", "-c", _MOUNT, str(folder), str(size_bytes)]
    command = [*_unshare(), *mount, sys.executable, *arguments]
    os.execvp(command[0], command)  # noqa: S606 - our own words, and no shell takes them apart


def _unshare() -> list[str]:
    return ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
