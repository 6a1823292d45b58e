"""Reads the teachers: their weights as a start for our own trunks, and their answers as pseudo-labels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from shared.arrays import Float32Array, UInt8Array
from training.relevance.onnx_weights import convolutions
from training.relevance.tflite_weights import tflite_convolutions
from transmitter.relevance.detector import Detector
from transmitter.relevance.segmenter import Segmenter

try:
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed: `make train` installs what training needs") from None

DETECTOR_SIDE = 416
VOC_SIDE = 257
SCENE_SIDE = 513


def load_segmenter(segmenter: Segmenter, path: Path) -> None:
    """Starts a segmenter from a DeepLabV3 file; the last layer too where the file has no decoder after it."""
    pairs = tflite_convolutions(path)
    blocks = [module for module in segmenter.blocks.modules() if isinstance(module, nn.Conv2d)]
    convs = [*blocks, segmenter.pooled, segmenter.local, segmenter.project]
    if len(pairs) == len(convs) + 1:
        convs.append(segmenter.classify)
    for conv, (weight, bias) in zip(convs, pairs, strict=False):
        _fill(conv, weight, bias)


def load_detector(detector: Detector, path: Path) -> None:
    """Starts the detector from YOLOX-nano; its picture is BGR, ours RGB."""
    pairs = convolutions(path)
    convs = [module for module in detector.modules() if isinstance(module, nn.Conv2d)]
    for conv, (_, weight, bias) in zip(convs, pairs, strict=True):
        _fill(conv, weight, bias)
    stem = convs[0].weight.data
    stem.copy_(stem.reshape(-1, 4, 3, 3, 3).flip(2).reshape(stem.shape))


def _fill(conv: nn.Conv2d, weight: Float32Array, bias: Float32Array) -> None:
    assert conv.bias is not None
    assert conv.weight.shape == weight.shape, (conv, weight.shape)
    conv.weight.data.copy_(torch.from_numpy(weight.astype(np.float32)))
    conv.bias.data.copy_(torch.from_numpy(bias.astype(np.float32)))


class BoxTeacher:
    """YOLOX-nano with its box outputs, run by onnxruntime."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        grids = [(DETECTOR_SIDE // stride, stride) for stride in (8, 16, 32)]
        self._cells = np.concatenate(
            [np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) for n, _ in grids]
        )
        self._strides = np.concatenate([np.full((n * n, 1), s) for n, s in grids])

    def __call__(self, image: UInt8Array, floor: float = 0.08) -> Float32Array:
        """Boxes of a photo after non-maximum suppression.

        Args:
            image: (height, width, 3) RGB.
            floor: lowest confidence reported.

        Returns:
            (count, 6): category index 0..79, confidence, left, top, right, bottom as fractions of the sides.
        """
        height, width = image.shape[:2]
        zoom = DETECTOR_SIDE / max(height, width)
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        canvas = np.full((DETECTOR_SIDE, DETECTOR_SIDE, 3), 114, np.float32)
        canvas[: size[1], : size[0]] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        raw = self._session.run(None, {"images": canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).copy()})[0][0]
        centre = (raw[:, :2] + self._cells) * self._strides
        half = np.exp(raw[:, 2:4]) * self._strides / 2
        boxes = np.concatenate([centre - half, centre + half], 1) / np.tile(size, 2)
        scores = raw[:, 4:5] * raw[:, 5:]
        rows, kinds = np.nonzero(scores > floor)
        found = np.column_stack([kinds, scores[rows, kinds], boxes[rows].clip(0, 1)]).astype(np.float32)
        return _suppress(found)


def _suppress(found: Float32Array, overlap: float = 0.5) -> Float32Array:
    """Non-maximum suppression within each category."""
    kept: list[Float32Array] = []
    for row in found[np.argsort(-found[:, 1])]:
        if all(row[0] != other[0] or _overlap(row[2:], other[2:]) < overlap for other in kept):
            kept.append(row)
    return np.array(kept, np.float32).reshape(-1, 6)


def _overlap(a: Float32Array, b: Float32Array) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(sides.clip(0)))
    return both / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both + 1e-9)


class _DeepLab:
    """DeepLabV3 over some classes.

    Args:
        path: its file.
        side: height and width of its input.
        step: its output is read at every so many positions.
    """

    def __init__(self, path: Path, side: int, step: int) -> None:
        self._side, self._step = side, step
        self._net = Interpreter(str(path), num_threads=1)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._output = self._net.get_output_details()[0]["index"]

    def __call__(self, image: UInt8Array) -> Float32Array:
        """(height, width, 3) RGB to (65, 65, classes) probabilities over the whole photo."""
        small = Image.fromarray(image).resize((self._side, self._side), Image.Resampling.BILINEAR)
        self._net.set_tensor(self._input, np.asarray(small, np.float32)[None] / 127.5 - 1)
        self._net.invoke()
        logits = self._net.get_tensor(self._output)[0, :: self._step, :: self._step]
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


class VocTeacher(_DeepLab):
    """DeepLabV3 over the 21 PASCAL VOC classes: (65, 65, 21)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, VOC_SIDE, 4)


class SceneTeacher(_DeepLab):
    """DeepLabV3 over ADE20K's 150 classes and none, (65, 65, 151), for what no box holds: sky, road, wall."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SCENE_SIDE, 8)
