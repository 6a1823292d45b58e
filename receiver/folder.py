"""The few things that are done with files, so that a crash at any moment leaves each of them whole or as it was.

A new file is written under another name, brought to the disk, renamed, and the folder brought to the disk; a file
grows at its end alone. What the system refuses becomes a `StoreError` that says whether the disk is full.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from shared.errors import InvalidInputError, StoreError

_PART: Final = ".part"
"""Ends the names of files that are not yet whole."""

_LOCK: Final = ".lock"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class FileInfo:
    """What the folder says of a file."""

    size_bytes: int
    modified_s: float
    """Seconds of the epoch."""


class Folder(Protocol):
    """Files by name; each method raises StoreError for what the disk refuses."""

    def files(self) -> Mapping[str, FileInfo]:
        """Regular files that are whole; leftovers of a crash are removed."""
        ...

    def create(self, name: str, content: bytes) -> None:
        """Makes a file, or another in its place; on the disk when this returns."""
        ...

    def append(self, name: str, content: bytes) -> None:
        """Adds to the end of a file; what could be added of it may stay there after an error."""
        ...

    def cut(self, name: str, size_bytes: int) -> None:
        """Shortens a file."""
        ...

    def sync(self, name: str) -> None:
        """Brings what was added to the disk."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file."""
        ...

    def rename(self, name: str, other: str) -> None:
        """Gives a file another name; one that has it is replaced."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file; one that is not there is no error."""
        ...

    def close(self) -> None:
        """Lets others use the folder."""
        ...


class RealFolder:
    """A folder of the file system, held by this process alone; implements `Folder`.

    Args:
        path: made, for this user alone, if it does not exist.

    Raises:
        InvalidInputError: it cannot be made or written, or another process holds it; names the field "store".
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInputError("store", f"cannot be used: {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InvalidInputError("store", f"{path} is used by another process") from error

    def files(self) -> Mapping[str, FileInfo]:
        """See the protocol."""
        with _told("cannot be listed"), os.scandir(self._path) as entries:
            found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        whole: dict[str, FileInfo] = {}
        for name, status in found.items():
            if stat.S_ISREG(status.st_mode) and name.endswith(_PART):
                self.remove(name)
            elif stat.S_ISREG(status.st_mode) and name != _LOCK:
                whole[name] = FileInfo(status.st_size, status.st_mtime)
        return whole

    def create(self, name: str, content: bytes) -> None:
        """See the protocol."""
        part = name + _PART
        try:
            with _told("cannot be written"), self._opened(part, _CREATE) as file:
                _write_all(file, content)
                os.fsync(file)
        except StoreError:
            with suppress(StoreError):
                self.remove(part)
            raise
        self.rename(part, name)

    def append(self, name: str, content: bytes) -> None:
        """See the protocol."""
        with _told("cannot be written"), self._opened(name, _APPEND) as file:
            _write_all(file, content)

    def cut(self, name: str, size_bytes: int) -> None:
        """See the protocol."""
        with _told("cannot be cut"), self._opened(name, _APPEND) as file:
            os.ftruncate(file, size_bytes)

    def sync(self, name: str) -> None:
        """See the protocol."""
        with _told("cannot be brought to the disk"), self._opened(name, _APPEND) as file:
            os.fsync(file)

    def read(self, name: str) -> bytes:
        """See the protocol."""
        with _told("cannot be read"), self._opened(name, _READ) as file, os.fdopen(os.dup(file), "rb") as reader:
            return reader.read()

    def rename(self, name: str, other: str) -> None:
        """See the protocol."""
        with _told("cannot be renamed"):
            (self._path / name).rename(self._path / other)
            self._sync_folder()

    def remove(self, name: str) -> None:
        """See the protocol."""
        with _told("cannot be removed"):
            (self._path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """See the protocol."""
        os.close(self._lock)

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        file = os.open(self._path / name, flags, 0o600)
        try:
            yield file
        finally:
            os.close(file)

    def _sync_folder(self) -> None:
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        outcome = "full" if error.errno in _FULL else "io"
        raise StoreError(f"{what}: {error.strerror}", outcome) from error
