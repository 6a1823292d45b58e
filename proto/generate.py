"""Generates the Python stubs of `proto/` into `shared/stubs/` (`make protos`), or checks them (`--check`)."""

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
STUBS = ROOT.parent / "shared" / "stubs"
PACKAGE = Path("mmsc") / "v1"


def generate(target: Path) -> int:
    """Runs protoc, then makes the stubs import one another from where they live."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out=quiet:{target}" if "mypy" in kind else f"--{kind}_out={target}" for kind in _PLUGINS]
    status: int = protoc.main(["protoc", f"-I{ROOT}", f"-I{include}", *outputs, *sources])
    for stub in (target / PACKAGE).glob("*_pb2*.py*"):
        stub.write_text(stub.read_text().replace("from mmsc.v1 import", "from shared.stubs.mmsc.v1 import"))
    return status


_PLUGINS = ("python", "grpc_python", "mypy", "mypy_grpc")


def check() -> int:
    """Generates into an empty folder and demands that the committed stubs are the same."""
    with tempfile.TemporaryDirectory() as folder:
        status = generate(Path(folder))
        fresh, committed = Path(folder) / PACKAGE, STUBS / PACKAGE
        names = {path.name for path in [*fresh.glob("*_pb2*"), *committed.glob("*_pb2*")]}
        _, differing, absent = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    for name in sorted(differing + absent):
        print(f"shared/stubs/{PACKAGE}/{name} is not what proto/ gives; run make protos", file=sys.stderr)
    return status or int(bool(differing or absent))


if __name__ == "__main__":
    sys.exit(check() if "--check" in sys.argv else generate(STUBS))
