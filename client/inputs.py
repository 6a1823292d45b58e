"""Reading what the command line names, and preparing where it writes; every failure names the argument."""

from pathlib import Path

from shared.errors import InvalidInputError
from shared.service import MAX_UPLOAD_BYTES


def read_input(path: Path, field: str) -> bytes:
    """Reads a file that may be uploaded.

    Args:
        path: the file.
        field: the argument, for the error.

    Raises:
        InvalidInputError: there is no such file, it cannot be read, or it is over MAX_UPLOAD_BYTES.
    """
    try:
        size = path.stat().st_size
        if size > MAX_UPLOAD_BYTES:
            raise InvalidInputError(field, f"{path} has {size} bytes, over the limit of {MAX_UPLOAD_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(field, f"cannot read {path}: {error.strerror or error}") from error


def prepare_directory(path: Path, field: str) -> Path:
    """Makes a directory that can be written to.

    Raises:
        InvalidInputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".mmsc"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidInputError(field, f"cannot write to {path}: {error.strerror or error}") from error
    return path


def write_output(path: Path, data: bytes, field: str) -> None:
    """Writes a file, making its directory.

    Raises:
        InvalidInputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise InvalidInputError(field, f"cannot write {path}: {error.strerror or error}") from error
