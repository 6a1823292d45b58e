"""Certificates for the tests, made on the spot by the script that the documents recommend."""

import atexit
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from shared.tls import Access, ServerTls

SCRIPT = Path(__file__).parent.parent / "deploy/certificates.sh"


@cache
def authority(name: str, *of: str) -> Path:
    """A directory with a CA of that name, and certificates (`service` and `client`); the same for each call."""
    if shutil.which("openssl") is None:
        pytest.fail("the tests of TLS need the openssl program (Debian: apt-get install openssl)")
    directory = Path(mkdtemp(prefix=f"mmsc-{name}-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    subprocess.run([SCRIPT, directory, *(of or ("service", "client"))], check=True)
    return directory


def server_tls(*, mutual: bool = False) -> ServerTls:
    """What a service of ours shows."""
    files = authority("ours")
    return ServerTls(files / "service.pem", files / "service.key", files / "ca.pem" if mutual else None)


def access(*, ca: str = "ours", cert: str = "", token_file: Path | None = None) -> Access:
    """What a caller brings: whose CA it trusts, and of whose CA its own certificate is, if it has one."""
    own = authority(cert) if cert else None
    return Access(
        authority(ca) / "ca.pem", own and own / "client.pem", own and own / "client.key", token_file=token_file
    )
