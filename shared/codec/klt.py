"""One level of the ladder: a classified Karhunen-Loeve transform that fills a fixed number of bits exactly.

```
patch (192 samples) ── class k ── coefficients B_k (x - m_k) ── Lloyd-Max indices ── packed bits
                          └────────────── log2 K bits ───────────────────────────────┘
```

A class owns a mean, an orthonormal basis, a bit allocation and one codebook for every coded coefficient, so that
flat, striped and busy patches each spend the level's bits where they count. The encoder takes the class whose
decoded patch is nearest. Decoding is integer arithmetic throughout (carried by float64, exact below 2^53): the
same bytes give the same patch on every machine.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch

from shared.arrays import AnyArray, Float32Array, Int64Array, UInt8Array
from shared.errors import WeightsError

SAMPLES: Final = 192
"""Samples of an 8x8 RGB patch."""

MEAN_SCALE: Final = 16
"""Means are stored in sixteenths of a grey level."""

BASIS_SCALE: Final = 1 << 14
"""Basis vectors (unit length) are stored as 16-bit integers of this scale."""

VALUE_SCALE: Final = 8
"""Codebook values are stored in eighths of a grey level."""

_PRODUCT_SCALE: Final = BASIS_SCALE * VALUE_SCALE
_OFFSET: Final = 128.0  # working about mid-grey keeps float32 sums of squares accurate
_CHUNK: Final = 128  # patches whose coefficients in all classes stay in the cache
_BATCH: Final = 8_192  # patches packed or decoded at a time: bounds the memory of a large picture


@dataclass(frozen=True)
class Choice:
    """What the encoder decided for a batch of patches."""

    classes: torch.Tensor
    """(patches,) int64, the class of each patch."""

    indices: torch.Tensor
    """(patches, coefficients) int64, the codebook index of each coefficient."""

    errors: torch.Tensor
    """(patches,) float32, sum of squared errors before rounding and clipping."""


@dataclass(frozen=True)
class ClassifiedKlt:
    """Tables of one level and the coder that uses them.

    Raises:
        WeightsError: the tables contradict each other.
    """

    payload_bytes: int
    """Bytes of one coded patch."""

    means: AnyArray
    """(classes, 192) int16, in 1/16 grey levels."""

    basis: AnyArray
    """(classes, coefficients, 192) int16, unit vectors times 2^14; unused rows are zero."""

    bits: UInt8Array
    """(classes, coefficients), bits of each coefficient's index, falling within a class."""

    values: AnyArray
    """(sum of 2^bits,) int16, codebooks in ascending order, class by class, in 1/8 grey levels."""

    def __post_init__(self) -> None:
        classes, coefficients = self.bits.shape
        fits = self.class_bits + self.bits.sum(axis=1, dtype=np.int64) <= 8 * self.payload_bytes
        agree = (
            classes == 1 << self.class_bits
            and self.means.shape == (classes, SAMPLES)
            and self.basis.shape == (classes, coefficients, SAMPLES)
            and self.bits.max(initial=0) <= 12
            and self.values.shape == (int((1 << self.bits.astype(np.int64)).sum()),)
        )
        if not (agree and fits.all()):
            raise WeightsError(f"the {self.payload_bytes}-byte level's tables contradict each other")

    @property
    def class_bits(self) -> int:
        """Bits of the class index at the head of a payload."""
        return (max(len(self.bits), 1) - 1).bit_length()

    @cached_property
    def _offsets(self) -> Int64Array:
        """(classes, coefficients), where each codebook starts in `values`."""
        sizes = 1 << self.bits.astype(np.int64)
        starts: Int64Array = np.cumsum(sizes.ravel()) - sizes.ravel()
        return starts.reshape(self.bits.shape)

    @cached_property
    def _positions(self) -> Int64Array:
        """(classes, coefficients, bit) of the payload's bit that holds an index bit; a missing bit is at the end."""
        depth = int(self.bits.max())
        starts = self.class_bits + np.cumsum(self.bits, axis=1, dtype=np.int64) - self.bits
        ends = (starts + self.bits)[..., None] - 1 - np.arange(depth)
        return np.where(np.arange(depth) < self.bits[..., None], ends, 8 * self.payload_bytes)

    @cached_property
    def _sources(self) -> tuple[Int64Array, Int64Array]:
        """(classes, payload bits) coefficient that each payload bit comes from, and the bit within its index."""
        total = 8 * self.payload_bytes
        source, shift = np.zeros((2, len(self.bits), total + 1), np.int64)
        shift[:] = 62  # bits nobody owns read as zero
        for t in range(self._positions.shape[2]):
            np.put_along_axis(source, self._positions[..., t], np.arange(self.bits.shape[1])[None], axis=1)
            np.put_along_axis(shift, self._positions[..., t], np.int64(t), axis=1)
        return source[:, :total], shift[:, :total]

    @cached_property
    def _encoder(self) -> "_Encoder":
        return _Encoder.of(self)

    def choose(self, patches: UInt8Array, shortlist: int = 3) -> Choice:
        """Finds class and indices with the least squared error.

        Args:
            patches: (patches, 192) samples.
            shortlist: classes tried in full for each patch.
        """
        parts = [self._encoder.choose(patches[i : i + _CHUNK], shortlist) for i in range(0, len(patches), _CHUNK)]
        return Choice(
            torch.cat([part.classes for part in parts]),
            torch.cat([part.indices for part in parts]),
            torch.cat([part.errors for part in parts]),
        )

    def pack(self, classes: Int64Array, indices: Int64Array) -> UInt8Array:
        """Packs classes (n,) and indices (n, coefficients) into (n, payload_bytes)."""
        source, shift = self._sources
        bits = (np.take_along_axis(indices, source[classes], axis=1) >> shift[classes]) & 1
        for t in range(self.class_bits):
            bits[:, t] = (classes >> (self.class_bits - 1 - t)) & 1
        return np.packbits(bits.astype(np.uint8), axis=1)

    def unpack(self, payload: UInt8Array) -> tuple[Int64Array, Int64Array]:
        """Reads (n, payload_bytes) into classes (n,) and indices (n, coefficients); any content is legal."""
        bits = np.unpackbits(np.ascontiguousarray(payload), axis=1)
        bits = np.concatenate([bits, np.zeros((len(bits), 1), np.uint8)], axis=1)
        weights = 1 << np.arange(self.class_bits)[::-1]
        classes = bits[:, : self.class_bits].astype(np.int64) @ weights
        indices = np.zeros((len(bits), self.bits.shape[1]), np.int64)
        for t in range(self._positions.shape[2]):
            indices |= np.take_along_axis(bits, self._positions[classes, :, t], axis=1).astype(np.int64) << t
        return classes, indices

    def encode(self, patches: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
        """Encodes patches.

        Args:
            patches: (n, 192) samples.

        Returns:
            (n, payload_bytes) bytes, and the (n, 192) samples that `decode` makes of them.
        """
        payload = np.empty((len(patches), self.payload_bytes), np.uint8)
        decoded = np.empty((len(patches), SAMPLES), np.uint8)
        for i in range(0, len(patches), _BATCH):
            choice = self.choose(patches[i : i + _BATCH])
            classes, indices = choice.classes.numpy(), choice.indices.numpy()
            payload[i : i + _BATCH] = self.pack(classes, indices)
            decoded[i : i + _BATCH] = self.reconstruct(classes, indices)
        return payload, decoded

    def decode(self, payload: UInt8Array) -> UInt8Array:
        """Decodes (n, payload_bytes) of any content to (n, 192) samples."""
        out = np.empty((len(payload), SAMPLES), np.uint8)
        for i in range(0, len(payload), _BATCH):
            out[i : i + _BATCH] = self.reconstruct(*self.unpack(payload[i : i + _BATCH]))
        return out

    def reconstruct(self, classes: Int64Array, indices: Int64Array) -> UInt8Array:
        """Turns classes (n,) and indices (n, coefficients) into (n, 192) samples, in exact integer arithmetic."""
        order = np.argsort(classes, kind="stable")
        values = self.values[self._offsets[classes] + indices][order].astype(np.float64)
        edges = np.searchsorted(classes[order], np.arange(len(self.bits) + 1))
        out = np.empty((len(classes), SAMPLES), np.uint8)
        for k in np.flatnonzero(np.diff(edges)):
            members = slice(edges[k], edges[k + 1])
            out[order[members]] = self._reconstruct_class(int(k), values[members])
        return out

    def _reconstruct_class(self, k: int, values: AnyArray) -> UInt8Array:
        used = int((self.bits[k] > 0).sum())
        total = values[:, :used] @ self.basis[k, :used].astype(np.float64)
        total += self.means[k].astype(np.float64) * (_PRODUCT_SCALE // MEAN_SCALE)
        rounded = np.floor((total + _PRODUCT_SCALE // 2) / _PRODUCT_SCALE)
        clipped: UInt8Array = rounded.clip(0, 255).astype(np.uint8)
        return clipped


@dataclass(frozen=True)
class _Encoder:
    """The same tables as float32 tensors, laid out for the search."""

    project: torch.Tensor  # (192, classes * coefficients + classes): every basis, then every mean (doubled)
    bias: torch.Tensor  # (classes * coefficients + classes,): less the coefficients of the means
    mean_energy: torch.Tensor  # (classes,): squared length of the means, plus the expected quantisation noise
    mean_square: torch.Tensor  # (classes,): squared length of the means alone
    low: torch.Tensor  # (classes, coefficients): least codebook value
    high: torch.Tensor  # (classes, coefficients): greatest codebook value
    bits: torch.Tensor  # (classes, coefficients) int64
    offsets: torch.Tensor  # (classes, coefficients) int64
    values: torch.Tensor  # codebooks
    thresholds: torch.Tensor  # midpoints, at the place of the upper value; +inf at the start of a codebook
    depths: tuple[int, ...]  # coefficients that have more than t bits in some class, for each t

    @classmethod
    def of(cls, tables: ClassifiedKlt) -> "_Encoder":
        basis = tables.basis.astype(np.float64) / BASIS_SCALE
        means = tables.means.astype(np.float64) / MEAN_SCALE - _OFFSET
        values = tables.values.astype(np.float64) / VALUE_SCALE
        starts = tables._offsets
        thresholds = np.concatenate([[np.inf], (values[1:] + values[:-1]) / 2])
        thresholds[starts.ravel()] = np.inf
        last = starts + (1 << tables.bits.astype(np.int64)) - 1
        mean_square = (means**2).sum(axis=1)
        flat = np.concatenate([basis.reshape(-1, SAMPLES), 2 * means]).T
        return cls(
            project=_f32(flat),
            bias=_f32(np.concatenate([-np.einsum("kns,ks->kn", basis, means).ravel(), np.zeros(len(means))])),
            mean_energy=_f32(mean_square + _expected_noise(tables, values)),
            mean_square=_f32(mean_square),
            low=_f32(values[starts]),
            high=_f32(values[last]),
            bits=torch.from_numpy(tables.bits.astype(np.int64)),
            offsets=torch.from_numpy(starts),
            values=_f32(values),
            thresholds=_f32(thresholds),
            depths=tuple(int((tables.bits > t).sum(axis=1).max()) for t in range(int(tables.bits.max()))),
        )

    def choose(self, patches: UInt8Array, shortlist: int) -> Choice:
        """`ClassifiedKlt.choose` for one chunk."""
        classes, coefficients = self.low.shape
        samples = torch.from_numpy(np.ascontiguousarray(patches)).float() - _OFFSET
        projected = torch.addmm(self.bias, samples, self.project)
        raw = projected[:, : classes * coefficients].view(-1, classes, coefficients)
        energy = (samples * samples).sum(dim=1, keepdim=True) - projected[:, classes * coefficients :]
        overload = raw - raw.clamp(self.low, self.high)
        gain = torch.linalg.vecdot(raw, raw) - torch.linalg.vecdot(overload, overload)
        estimate = energy + self.mean_energy - gain
        candidates = estimate.topk(min(shortlist, classes), dim=1, largest=False).indices
        return self._best(raw, energy + self.mean_square, candidates)

    def _best(self, raw: torch.Tensor, energy: torch.Tensor, candidates: torch.Tensor) -> Choice:
        rows = torch.arange(len(raw))[:, None].expand_as(candidates)
        coefficients = raw[rows, candidates].flatten(0, 1)
        indices = self._quantise(coefficients, candidates.reshape(-1))
        decoded = self.values[self.offsets[candidates.reshape(-1)] + indices]
        residual = coefficients - decoded
        change = torch.linalg.vecdot(residual, residual) - torch.linalg.vecdot(coefficients, coefficients)
        errors = energy.gather(1, candidates) + change.view_as(candidates)
        best = errors.argmin(dim=1, keepdim=True)
        pick = best + torch.arange(len(raw))[:, None] * candidates.shape[1]
        return Choice(candidates.gather(1, best)[:, 0], indices[pick[:, 0]], errors.gather(1, best)[:, 0])

    def _quantise(self, coefficients: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Nearest codebook entry by bisection, a bit at a time from the top."""
        indices = torch.zeros(coefficients.shape, dtype=torch.int64)
        offsets, bits = self.offsets[classes], self.bits[classes]
        for t in range(len(self.depths) - 1, -1, -1):
            width = self.depths[t]
            trial = indices[:, :width] + (1 << t)
            place = torch.where(bits[:, :width] > t, offsets[:, :width] + trial, 0)
            above = coefficients[:, :width] > self.thresholds[place]
            indices[:, :width] = torch.where(above, trial, indices[:, :width])
        return indices


def _f32(array: AnyArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _expected_noise(tables: ClassifiedKlt, values: AnyArray) -> Float32Array:
    """(classes,) rough squared error of quantisation: a twelfth of each codebook's mean squared cell width."""
    noise = np.zeros(tables.bits.shape)
    for (k, i), start in np.ndenumerate(tables._offsets):
        book = values[start : start + (1 << int(tables.bits[k, i]))]
        if len(book) > 1:
            noise[k, i] = (np.diff(book) ** 2).mean() / 12
    total: Float32Array = noise.sum(axis=1).astype(np.float32)
    return total
