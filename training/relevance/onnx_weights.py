"""Reads the convolution weights out of an ONNX file."""

from pathlib import Path

from shared.arrays import Float32Array

try:
    import onnx
    from onnx import numpy_helper
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed: `make train` installs what training needs") from None


def convolutions(path: Path) -> list[tuple[str, Float32Array, Float32Array]]:
    """Name, weight and bias of every convolution of a graph, in the order of execution."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    return [(node.input[1], stored[node.input[1]], stored[node.input[2]]) for node in nodes]
