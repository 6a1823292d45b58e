"""Generates the Python stubs of `proto/` into `shared/stubs/` (run by `make protos`)."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
STUBS = ROOT.parent / "shared" / "stubs"


def main() -> int:
    """Runs protoc, then makes the stubs import one another from where they live."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={STUBS}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    status: int = protoc.main(["protoc", f"-I{ROOT}", f"-I{include}", *outputs, *sources])
    for stub in [*STUBS.rglob("*_pb2*.py"), *STUBS.rglob("*_pb2*.pyi")]:
        stub.write_text(stub.read_text().replace("from mmsc.v1 import", "from shared.stubs.mmsc.v1 import"))
    return status


if __name__ == "__main__":
    sys.exit(main())
